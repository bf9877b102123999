//! Accounts: users, their profiles, keys and sessions, and sign-in.

pub mod api_keys;
pub mod credentials;
pub mod google;
pub mod profile;
pub mod sessions;
pub mod types;
pub mod users;
