//! In-memory model of conversations, which the real ones must be equal to.

use proptest::prelude::*;

use super::super::types::Ending;

pub const USERS: usize = 2;

/// The possible operations. Numbers are positions in the model's lists.
#[derive(Clone, Debug)]
pub enum Transition {
    Create {
        user: usize,
        texts: Vec<String>,
    },
    Append {
        by: usize,
        conversation: usize,
        parent: Parent,
        texts: Vec<String>,
    },
    Title {
        conversation: usize,
        title: Option<String>,
    },
    DeleteItem {
        conversation: usize,
        item: usize,
    },
    Pick {
        conversation: usize,
        item: usize,
    },
    Share {
        conversation: usize,
    },
    Unshare {
        conversation: usize,
    },
    Delete {
        by: usize,
        conversation: usize,
    },
    Turn {
        conversation: usize,
        text: String,
        said: String,
        end: End,
    },
    MoveAll {
        from: usize,
        to: usize,
    },
    DeleteAll {
        user: usize,
    },
    /// The server is killed when everything is acknowledged.
    Kill,
    /// The server is killed after this went to the database and before anything waited for the disk.
    KillDuring(Box<Transition>),
    Restart,
}

/// The parent of new items.
#[derive(Clone, Copy, Debug)]
pub enum Parent {
    Head,
    Beginning,
    Item(usize),
}

/// The end of a turn.
#[derive(Clone, Copy, Debug)]
pub enum End {
    By(Ending),
    TakenBack,
    /// The server is killed while the answer runs, after a checkpoint.
    Killed,
}

#[derive(Clone, Debug, Default)]
pub struct Model {
    pub conversations: Vec<Conversation>,
    pub clock: u64,
    /// True if the last transition was possible.
    pub possible: bool,
}

#[derive(Clone, Debug)]
pub struct Conversation {
    /// `None`: deleted.
    pub user: Option<usize>,
    pub title: Option<String>,
    pub updated: u64,
    pub items: Vec<Item>,
    pub head: Option<usize>,
    /// The head that a share link shows.
    pub share: Option<Option<usize>>,
}

#[derive(Clone, Debug)]
pub struct Item {
    pub role: &'static str,
    pub text: String,
    pub status: &'static str,
    pub parent: Option<usize>,
    pub deleted: bool,
}

impl Conversation {
    /// Returns the path from the beginning to an item without deleted ones.
    pub fn path(&self, head: Option<usize>) -> Vec<usize> {
        let mut path = Vec::new();
        let mut at = head;
        while let Some(number) = at {
            if !self.items[number].deleted {
                path.push(number);
            }
            at = self.items[number].parent;
        }
        path.reverse();
        path
    }

    fn add(&mut self, role: &'static str, text: &str, status: &'static str, parent: Option<usize>) -> usize {
        if role == "user" && self.title.is_none() {
            self.title = Some(text.to_owned());
        }
        self.items.push(Item { role, text: text.to_owned(), status, parent, deleted: false });
        self.head = Some(self.items.len() - 1);
        self.items.len() - 1
    }

    fn has(&self, item: usize) -> bool {
        self.items.get(item).is_some_and(|item| !item.deleted)
    }
}

impl Model {
    pub fn step(&mut self, transition: &Transition) {
        self.clock += 1;
        self.possible = self.try_step(transition).is_some();
    }

    fn live(&mut self, number: usize) -> Option<&mut Conversation> {
        let clock = self.clock;
        let conversation = self.conversations.get_mut(number).filter(|c| c.user.is_some())?;
        conversation.updated = clock;
        Some(conversation)
    }

    fn try_step(&mut self, transition: &Transition) -> Option<()> {
        match transition {
            Transition::Create { user, texts } => {
                let mut new = Conversation {
                    user: Some(*user),
                    title: None,
                    updated: self.clock,
                    items: Vec::new(),
                    head: None,
                    share: None,
                };
                for text in texts {
                    new.add("user", text, "completed", new.head);
                }
                self.conversations.push(new);
            }
            Transition::Append { by, conversation, parent, texts } => {
                let before = self.conversations.get(*conversation)?;
                if before.user != Some(*by) {
                    return None;
                }
                let mut parent = match parent {
                    Parent::Head => before.head,
                    Parent::Beginning => None,
                    Parent::Item(item) => Some(before.items.get(*item).map(|_| *item)?),
                };
                let conversation = self.live(*conversation)?;
                for text in texts {
                    parent = Some(conversation.add("user", text, "completed", parent));
                }
            }
            Transition::Title { conversation, title } => {
                self.live(*conversation)?.title.clone_from(title);
            }
            Transition::DeleteItem { conversation, item } => {
                self.conversations.get(*conversation).filter(|c| c.has(*item))?;
                self.live(*conversation)?.items[*item].deleted = true;
            }
            Transition::Pick { conversation, item } => {
                self.conversations.get(*conversation).filter(|c| c.has(*item))?;
                self.live(*conversation)?.head = Some(*item);
            }
            Transition::Share { conversation } => {
                let conversation = self.conversations.get_mut(*conversation).filter(|c| c.user.is_some())?;
                conversation.share = Some(conversation.head);
            }
            Transition::Unshare { conversation } => {
                let conversation = self.conversations.get_mut(*conversation).filter(|c| c.user.is_some())?;
                conversation.share.take()?;
            }
            Transition::Delete { by, conversation } => {
                let conversation =
                    self.conversations.get_mut(*conversation).filter(|c| c.user == Some(*by))?;
                conversation.user = None;
            }
            Transition::Turn { conversation, text, said, end } => {
                let conversation = self.live(*conversation)?;
                let (head, title) = (conversation.head, conversation.title.clone());
                let question = conversation.add("user", text, "completed", head);
                let answer = conversation.add("assistant", said, "incomplete", Some(question));
                match end {
                    End::By(Ending::Completed) => conversation.items[answer].status = "completed",
                    End::By(Ending::Incomplete) | End::Killed => {}
                    End::TakenBack => {
                        conversation.items[question].deleted = true;
                        conversation.items[answer].deleted = true;
                        (conversation.head, conversation.title) = (head, title);
                    }
                }
            }
            Transition::MoveAll { from, to } => {
                for conversation in self.conversations.iter_mut().filter(|c| c.user == Some(*from)) {
                    conversation.user = Some(*to);
                }
            }
            Transition::DeleteAll { user } => {
                for conversation in self.conversations.iter_mut().filter(|c| c.user == Some(*user)) {
                    conversation.user = None;
                }
            }
            Transition::KillDuring(transition) => self.try_step(transition)?,
            Transition::Kill | Transition::Restart => {}
        }
        Some(())
    }
}

fn word() -> impl Strategy<Value = String> {
    // Occasionally one that takes several chunks.
    prop_oneof![20 => "[a-z]{1,6}", 1 => Just("long ".repeat(30_000).trim_end().to_owned())]
}

/// Returns the operations that are possible for the model; occasionally also impossible ones.
pub fn transitions(model: &Model) -> BoxedStrategy<Transition> {
    let texts = || proptest::collection::vec("[a-z]{1,6}", 1..4);
    let create = (0..USERS, proptest::collection::vec("[a-z]{1,6}", 0..3))
        .prop_map(|(user, texts)| Transition::Create { user, texts })
        .boxed();
    let rest = prop_oneof![
        2 => Just(Transition::Kill),
        2 => Just(Transition::Restart),
        1 => (0..USERS, 0..USERS)
            .prop_filter("to another", |(from, to)| from != to)
            .prop_map(|(from, to)| Transition::MoveAll { from, to }),
        1 => (0..USERS).prop_map(|user| Transition::DeleteAll { user }),
    ]
    .boxed();
    let count = model.conversations.len();
    if count == 0 {
        return prop_oneof![4 => create, 1 => rest].boxed();
    }
    let sizes: Vec<usize> = model.conversations.iter().map(|c| c.items.len()).collect();
    let owners: Vec<usize> = model.conversations.iter().map(|c| c.user.unwrap_or(0)).collect();
    let conversation = move || 0..count;
    // One past the end is an item that does not exist.
    let item = move || {
        let sizes = sizes.clone();
        conversation().prop_flat_map(move |number| (Just(number), 0..=sizes[number]))
    };
    let by = move || {
        let owners = owners.clone();
        (conversation(), 0..10usize).prop_map(move |(number, other)| {
            // Occasionally another user.
            (number, if other == 0 { (owners[number] + 1) % USERS } else { owners[number] })
        })
    };
    let append = (by(), item(), 0..6u8, texts()).prop_map(
        |((mut conversation, mut by), (other, item), way, texts)| {
            let parent = match way {
                0 => Parent::Beginning,
                1 | 2 => {
                    if other != conversation {
                        (conversation, by) = (other, by);
                    }
                    Parent::Item(item)
                }
                _ => Parent::Head,
            };
            Transition::Append { by, conversation, parent, texts }
        },
    );
    let end = prop_oneof![
        3 => Just(End::By(Ending::Completed)),
        1 => Just(End::By(Ending::Incomplete)),
        1 => Just(End::TakenBack),
        1 => Just(End::Killed),
    ];
    let change = prop_oneof![
        8 => append,
        2 => (conversation(), proptest::option::of("[a-z]{1,6}"))
            .prop_map(|(conversation, title)| Transition::Title { conversation, title }),
        3 => item().prop_map(|(conversation, item)| Transition::DeleteItem { conversation, item }),
        3 => item().prop_map(|(conversation, item)| Transition::Pick { conversation, item }),
        2 => conversation().prop_map(|conversation| Transition::Share { conversation }),
        1 => conversation().prop_map(|conversation| Transition::Unshare { conversation }),
        2 => by().prop_map(|(conversation, by)| Transition::Delete { by, conversation }),
        6 => (conversation(), "[a-z]{1,6}", word(), end)
            .prop_map(|(conversation, text, said, end)| Transition::Turn { conversation, text, said, end }),
    ]
    .boxed();
    let during = prop_oneof![create.clone(), change.clone()]
        .prop_filter("a turn is killed in its own way", |t| !matches!(t, Transition::Turn { .. }))
        .prop_map(|transition| Transition::KillDuring(Box::new(transition)));
    prop_oneof![4 => create, 14 => change, 1 => rest, 2 => during].boxed()
}
