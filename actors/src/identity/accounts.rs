//! The actor of users and API keys.
//!
//! It decides nothing in its mailbox: each message becomes a decision ([`users`], [`api_keys`]) on the store's thread, which
//! answers once the change is durable. So a restart loses only calls that were not begun, and a slow disk write does not delay
//! later calls one by one: they share the next write.

use std::sync::Arc;
use std::time::Duration;

use super::call::{Call, IdentityWriter, PER_JOB, warn_of};
use super::error::IdentityError;
use super::guests::GuestLimits;
use super::ids::{KeyId, UserId};
use super::party::ClientNet;
use super::types::{
    ApiKeyRecord, CreatedKey, ExternalProfile, KeyUpdate, Maker, NewKey, Origin, Page, SignIn, UserKind,
    UserRecord, UserUpdate,
};
use super::users::{self, GuestRetention};
use super::{api_keys, now_s};
use crate::service::{Service, Tick};
use crate::store::{Changes, Scope, Stores};

/// Interval at which the last use of keys is stored.
const TICK: Duration = Duration::from_secs(30);

/// Number of ticks between deletions of unusable records.
const SWEEP_TICKS: u64 = 120;

/// Messages of the accounts actor.
#[derive(Debug)]
pub enum AccountsMessage {
    /// Creates a guest for a caller of that network.
    Guest(ClientNet, Call<UserRecord>),
    /// Signs in a person authenticated by an identity provider, who may have been that guest.
    SignIn(ExternalProfile, Option<UserId>, Call<SignIn>),
    /// Looks up a user.
    User(UserId, Call<UserRecord>),
    /// Lists users after an id, up to a maximum number.
    Users(Option<UserId>, usize, Call<Page<UserRecord>>),
    /// Creates a member with that address and name.
    CreateUser(String, String, Call<UserRecord>),
    /// Changes a user.
    UpdateUser(UserId, UserUpdate, Call<UserRecord>),
    /// Deletes a user with its keys and sessions.
    DeleteUser(UserId, Call<()>),
    /// Creates a key for a user.
    CreateKey(UserId, Maker, NewKey, Call<CreatedKey>),
    /// Lists a user's keys.
    Keys(UserId, Call<Vec<ApiKeyRecord>>),
    /// Looks up a key.
    Key(UserId, KeyId, Call<ApiKeyRecord>),
    /// Changes a key.
    UpdateKey(UserId, KeyId, Maker, KeyUpdate, Call<ApiKeyRecord>),
    /// Revokes a key.
    RevokeKey(UserId, KeyId, Call<()>),
    /// Ends keys and sessions.
    End(Vec<Origin>, Call<()>),
    /// Periodic maintenance.
    Tick,
}

/// The actor of users and API keys.
#[derive(Clone, Debug)]
pub struct Accounts {
    /// Executes decisions.
    pub writer: IdentityWriter,
    /// Maximum numbers of guests.
    pub guest_limits: GuestLimits,
    /// Retention of guests.
    pub guest_retention: GuestRetention,
    /// Number of ticks since the start.
    pub ticks: u64,
}

impl Service for Accounts {
    type Message = AccountsMessage;

    const TICK: Option<Tick<AccountsMessage>> = Some((TICK, || AccountsMessage::Tick));

    async fn start(&mut self) {
        self.ticks = 0;
        self.sweep(now_s());
    }

    fn handle(&mut self, message: AccountsMessage) {
        let writer = &self.writer;
        let index = Arc::clone(&writer.index);
        let now = now_s();
        match message {
            AccountsMessage::Guest(net, call) => {
                match index.reserve_guest(net, self.guest_limits) {
                    Ok(place) => writer.carry_out(
                        move |_| async move { Ok(users::guest(net, now)) },
                        move |answer| {
                            // Only once the index counts the guest itself.
                            drop(place);
                            call.answer(answer);
                        },
                    ),
                    Err(error) => call.answer(Err(error)),
                }
            }
            AccountsMessage::SignIn(profile, guest, call) => {
                sign_in(writer.clone(), call, profile, guest, now);
            }
            AccountsMessage::User(id, call) => writer
                .look(call, Scope::User(id), move |stores| async move { users::find(&*stores, id).await }),
            AccountsMessage::Users(after, limit, call) => {
                writer.look(call, Scope::Users, move |stores| async move {
                    users::page(&*stores, after, limit).await
                });
            }
            AccountsMessage::CreateUser(email, name, call) => {
                writer.decide(call, move |stores| async move {
                    users::create(&*stores, &email, &name, now).await
                });
            }
            AccountsMessage::UpdateUser(id, update, call) => writer.decide(call, move |stores| async move {
                users::update(&*stores, id, update, &index.users_of(UserKind::Admin), now).await
            }),
            AccountsMessage::DeleteUser(id, call) => writer.decide(call, move |stores| async move {
                users::delete(&*stores, id, &index.users_of(UserKind::Admin)).await
            }),
            AccountsMessage::CreateKey(user, maker, key, call) => {
                writer.decide(call, move |stores| async move {
                    api_keys::create(&*stores, user, maker, key, now).await
                });
            }
            AccountsMessage::Keys(user, call) => {
                writer.look(call, Scope::User(user), move |stores| async move {
                    api_keys::list(&*stores, user, |hash| index.last_used(hash)).await
                })
            }
            AccountsMessage::Key(user, key, call) => {
                writer.look(call, Scope::User(user), move |stores| async move {
                    api_keys::one(&*stores, user, key, |hash| index.last_used(hash)).await
                })
            }
            AccountsMessage::UpdateKey(user, key, maker, update, call) => writer
                .decide(call, move |stores| async move {
                    api_keys::update(&*stores, user, key, maker, update, now).await
                }),
            AccountsMessage::RevokeKey(user, key, call) => {
                writer.decide(
                    call,
                    move |stores| async move { api_keys::revoke(&*stores, user, key, now).await },
                );
            }
            AccountsMessage::End(credentials, call) => {
                writer.decide(
                    call,
                    move |stores| async move { api_keys::end(&*stores, &credentials, now).await },
                );
            }
            AccountsMessage::Tick => {
                note_used(writer);
                self.ticks += 1;
                if self.ticks.is_multiple_of(SWEEP_TICKS) {
                    self.sweep(now);
                }
            }
        }
    }

    fn stop(&mut self) {
        note_used(&self.writer);
    }
}

impl Accounts {
    fn sweep(&self, now: u64) {
        let writer = &self.writer;
        writer.maintain(
            move |stores| async move { api_keys::revoked_long_ago(&*stores, now).await },
            move |stores, found| async move { Ok(api_keys::forget(&*stores, &found, now).await?) },
        );
        let (guests, index) = (writer.index.users_of(UserKind::Guest), Arc::clone(&writer.index));
        let retention = self.guest_retention;
        writer.maintain(
            move |_| async move { Ok(guests) },
            move |stores, guests| {
                let index = Arc::clone(&index);
                async move {
                    let used = |hash: &_| index.last_used(hash);
                    users::forget_guests(&*stores, &guests, retention, now, used).await
                }
            },
        );
    }
}

/// Executes a sign-in. The data of a guest that is merged into a user moves in steps before, so that other callers get their turn
/// in between; the decision is made anew each time.
fn sign_in(
    writer: IdentityWriter,
    call: Call<SignIn>,
    profile: ExternalProfile,
    guest: Option<UserId>,
    now: u64,
) {
    if call.is_abandoned() {
        return;
    }
    let (again, store) = (profile.clone(), Arc::clone(&writer.store));
    let place = writer.notices.place();
    let decide = move |stores: Arc<dyn Stores>| async move {
        let (answer, changes) = users::sign_in(&*stores, profile, guest, now).await?;
        for &(from, to) in &changes.moves {
            if !stores.move_some(from, to).await? {
                return Ok((None, Changes::default()));
            }
        }
        Ok((Some(answer), changes))
    };
    store.decide(decide, move |outcome: Result<(Option<SignIn>, Changes), IdentityError>| match outcome {
        Err(error) => call.answer(Err(error)),
        Ok((None, _)) => sign_in(writer, call, again, guest, now),
        Ok((Some(answer), changes)) => {
            writer.notices.publish_after(place, &changes);
            call.answer(Ok(answer));
        }
    });
}

/// Stores the last use of the keys used since the previous call.
pub fn note_used(writer: &IdentityWriter) {
    for used in writer.index.take_used().chunks(PER_JOB) {
        let used = used.to_vec();
        writer.carry_out(
            move |stores| async move { Ok(((), api_keys::note_used(&*stores, &used).await?)) },
            |outcome: Result<(), IdentityError>| {
                if let Err(error) = outcome {
                    warn_of(&error);
                }
            },
        );
    }
}
