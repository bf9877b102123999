//! Conversations: what was said, kept so that nothing is lost.
//!
//! [`Conversations`] is the edge's door. Changes are messages to supervised actors, one for each shard of users, and
//! are answered once they are on disk (`actor`, `decide`). Reads go past mailboxes and the store's thread (`view`).
//! An answer that is being made is a [`Turn`]; in one conversation there is one at a time (`running`).
//!
//! A conversation is a tree of items (`tree`): editing a message or making an answer again adds a branch beside what
//! is there, and nothing is overwritten. Items are OpenAI's, as JSON (`item`).

mod actor;
pub mod chat;
mod cursor;
mod decide;
mod draft;
mod error;
mod fields;
mod handle;
mod ids;
pub mod item;
mod leases;
pub mod markdown;
mod prepared;
mod rules;
mod title;
mod tree;
mod turn;
pub(crate) mod types;
mod view;

#[cfg(test)]
mod tests;

pub use error::ConversationError;
pub use handle::{Conversations, TurnRequest};
pub use ids::ConversationId;
pub(crate) use ids::MAX_ITEM_ID;
pub use leases::Lease;
pub use tree::Node;
pub use turn::Turn;
pub use types::{
    Anchor, BranchView, ConversationPage, ConversationQuery, ConversationRecord, ConversationUpdate, Item,
    ItemPage, NewConversation, NewItem, Position, Share, WholeConversation,
};
