//! The service of users and API keys.
//!
//! It decides nothing in its mailbox: each message becomes a decision ([`users`], [`api_keys`]) on the store's thread,
//! which answers once the change is durable. So a restart loses only calls that were not begun, and one slow disk
//! write does not hold up those behind it: they share the next.

use std::sync::Arc;
use std::time::Duration;

use super::call::{Call, Desk, PER_JOB, warn_of};
use super::error::IdentityError;
use super::guests::GuestLimits;
use super::ids::{KeyId, UserId};
use super::types::{
    ApiKeyRecord, ClientNet, CreatedKey, ExternalProfile, KeyUpdate, Maker, NewKey, Origin, Page, SignIn,
    UserKind, UserRecord, UserUpdate,
};
use super::users::{self, GuestRetention};
use super::{api_keys, now_s};
use crate::service::{Service, Tick};
use crate::store::{Changes, Stores};

/// How often it is written down when keys were last used.
const TICK: Duration = Duration::from_secs(30);

/// Every so many ticks, what nobody can use any more is deleted.
const SWEEP_TICKS: u64 = 120;

/// Messages of the accounts service.
#[derive(Debug)]
pub enum AccountsMessage {
    /// Make a guest of somebody from that network.
    Guest(ClientNet, Call<UserRecord>),
    /// An identity provider vouches for somebody, who may have been that guest.
    SignIn(ExternalProfile, Option<UserId>, Call<SignIn>),
    /// Look up a user.
    User(UserId, Call<UserRecord>),
    /// List users behind that one, up to so many.
    Users(Option<UserId>, usize, Call<Page<UserRecord>>),
    /// Make a member of that address and name.
    CreateUser(String, String, Call<UserRecord>),
    /// Change a user.
    UpdateUser(UserId, UserUpdate, Call<UserRecord>),
    /// Delete a user with keys and sessions.
    DeleteUser(UserId, Call<()>),
    /// Make a key for a user.
    CreateKey(UserId, Maker, NewKey, Call<CreatedKey>),
    /// List a user's keys.
    Keys(UserId, Call<Vec<ApiKeyRecord>>),
    /// Look up a key.
    Key(UserId, KeyId, Call<ApiKeyRecord>),
    /// Change a key.
    UpdateKey(UserId, KeyId, Maker, KeyUpdate, Call<ApiKeyRecord>),
    /// Revoke a key.
    RevokeKey(UserId, KeyId, Call<()>),
    /// End keys and sessions.
    End(Vec<Origin>, Call<()>),
    /// Time passed.
    Tick,
}

/// The service of users and API keys.
#[derive(Clone, Debug)]
pub struct Accounts {
    /// Where decisions are carried out.
    pub desk: Desk,
    /// Most guests.
    pub guest_limits: GuestLimits,
    /// When guests are forgotten.
    pub guest_retention: GuestRetention,
    /// Ticks since the start.
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
        let desk = &self.desk;
        let index = Arc::clone(&desk.index);
        let now = now_s();
        match message {
            AccountsMessage::Guest(net, call) => {
                match index.guests().reserve(net, self.guest_limits) {
                    Ok(place) => desk.carry_out(
                        move |_| Ok(users::guest(net, now)),
                        move |answer| {
                            // Not before the index counts the guest itself.
                            drop(place);
                            call.answer(answer);
                        },
                    ),
                    Err(error) => call.answer(Err(error)),
                }
            }
            AccountsMessage::SignIn(profile, guest, call) => {
                sign_in(desk.clone(), call, profile, guest, now);
            }
            AccountsMessage::User(id, call) => desk.look(call, move |stores| users::find(stores, id)),
            AccountsMessage::Users(after, limit, call) => {
                desk.look(call, move |stores| users::page(stores, after, limit));
            }
            AccountsMessage::CreateUser(email, name, call) => {
                desk.decide(call, move |stores| users::create(stores, &email, &name, now));
            }
            AccountsMessage::UpdateUser(id, update, call) => desk.decide(call, move |stores| {
                users::update(stores, id, update, &index.users_of(UserKind::Admin), now)
            }),
            AccountsMessage::DeleteUser(id, call) => {
                desk.decide(call, move |stores| users::delete(stores, id, &index.users_of(UserKind::Admin)))
            }
            AccountsMessage::CreateKey(user, maker, key, call) => {
                desk.decide(call, move |stores| api_keys::create(stores, user, maker, key, now));
            }
            AccountsMessage::Keys(user, call) => {
                desk.look(call, move |stores| api_keys::list(stores, user, |hash| index.last_used(hash)))
            }
            AccountsMessage::Key(user, key, call) => {
                desk.look(call, move |stores| api_keys::one(stores, user, key, |hash| index.last_used(hash)))
            }
            AccountsMessage::UpdateKey(user, key, maker, update, call) => {
                desk.decide(call, move |stores| api_keys::update(stores, user, key, maker, update, now))
            }
            AccountsMessage::RevokeKey(user, key, call) => {
                desk.decide(call, move |stores| api_keys::revoke(stores, user, key, now));
            }
            AccountsMessage::End(credentials, call) => {
                desk.decide(call, move |stores| api_keys::end(stores, &credentials, now));
            }
            AccountsMessage::Tick => {
                note_used(desk);
                self.ticks += 1;
                if self.ticks.is_multiple_of(SWEEP_TICKS) {
                    self.sweep(now);
                }
            }
        }
    }

    fn stop(&mut self) {
        note_used(&self.desk);
    }
}

impl Accounts {
    fn sweep(&self, now: u64) {
        let desk = &self.desk;
        desk.look_after(
            move |stores| api_keys::revoked_long_ago(stores, now),
            move |stores, found| Ok(api_keys::forget(stores, found, now)?),
        );
        let (guests, index) = (desk.index.users_of(UserKind::Guest), Arc::clone(&desk.index));
        let retention = self.guest_retention;
        desk.look_after(
            move |_| Ok(guests),
            move |stores, guests| {
                let used = |hash: &_| index.last_used(hash);
                users::forget_guests(stores, guests, retention, now, used)
            },
        );
    }
}

/// Carries a sign-in out. What a guest has that becomes somebody else's moves in steps before, so that others have their
/// turn between them; the decision is made anew each time.
fn sign_in(desk: Desk, call: Call<SignIn>, profile: ExternalProfile, guest: Option<UserId>, now: u64) {
    if call.is_abandoned() {
        return;
    }
    let (again, store) = (profile.clone(), Arc::clone(&desk.store));
    let decide = move |stores: &dyn Stores| -> Result<(Option<SignIn>, Changes), IdentityError> {
        let (answer, changes) = users::sign_in(stores, profile, guest, now)?;
        for &(from, to) in &changes.moves {
            if !stores.move_some(from, to)? {
                return Ok((None, Changes::default()));
            }
        }
        Ok((Some(answer), changes))
    };
    store.decide(decide, move |outcome| match outcome {
        Err(error) => call.answer(Err(error)),
        Ok((None, _)) => sign_in(desk, call, again, guest, now),
        Ok((Some(answer), changes)) => {
            desk.index.apply(&changes);
            call.answer(Ok(answer));
        }
    });
}

/// Writes down which keys were used since the last time.
pub fn note_used(desk: &Desk) {
    for used in desk.index.take_used().chunks(PER_JOB) {
        let used = used.to_vec();
        desk.carry_out(
            move |stores| Ok(((), api_keys::note_used(stores, &used)?)),
            |outcome: Result<(), IdentityError>| {
                if let Err(error) = outcome {
                    warn_of(&error);
                }
            },
        );
    }
}
