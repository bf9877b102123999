//! Conversations: durable storage of messages and answers.
//!
//! [`Conversations`] is the edge's handle. Changes are messages to supervised actors, one for each shard of users, and are
//! answered once they are on disk (`actor`, `commands`). Reads bypass mailboxes and the store's thread (`queries`). An answer
//! during its generation is a [`Turn`]; a conversation has one at a time (`leases`).
//!
//! A conversation is a tree of items (`tree`): editing a message or regenerating an answer adds a branch beside the existing one,
//! and nothing is overwritten. Items are OpenAI's, as JSON (`item`).

mod actor;
pub mod chat;
mod commands;
mod cursor;
mod draft;
mod error;
mod fields;
mod handle;
mod ids;
pub mod item;
mod leases;
pub mod markdown;
mod prepared;
mod queries;
mod rules;
mod title;
mod tree;
mod turn;
pub(crate) mod types;

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
