//! The folder and its channel, without a worker.

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use jan_protocol::prefix_files::{Channel, Numbered, Reply, Request, TenantKey};

use super::*;

fn config(folder: &Path) -> StorageConfig {
    StorageConfig { path: folder.to_owned(), kv_mib: 1, min_free_mib: 0, ..StorageConfig::default() }
}

fn open(config: &StorageConfig, users: &[UserId]) -> PrefixFiles {
    let files = PrefixFiles::new(config).unwrap();
    files.start(users.iter().copied());
    files
}

/// A file's number and bytes.
type ReadFile = (FileId, Vec<u8>);

/// A worker that was given requests of these tenants.
struct Worker {
    channel: Channel,
    link: Option<WorkerChannel>,
}

impl Worker {
    fn new(files: &PrefixFiles, tenants: &[&str]) -> Self {
        let tenants: HashMap<String, String> =
            tenants.iter().map(|tenant| ((*tenant).to_owned(), format!("party of {tenant}"))).collect();
        let callers: Callers = Arc::new(move |tenant| tenants.get(tenant).cloned());
        let (link, end) = files.connect("", callers);
        Self { channel: Channel::of(end.unwrap()).unwrap(), link: Some(link) }
    }

    fn ask(&self, request: Request) -> (Reply, Vec<File>) {
        self.channel.send(&Numbered { number: 1, message: request }, &[]).unwrap();
        let (reply, descriptors) = self.channel.receive::<Numbered<Reply>>().unwrap().unwrap();
        (reply.message, descriptors.into_iter().map(File::from).collect())
    }

    fn write(&self, tenant: &str, bytes: &[u8], announced: u64, replaces: Vec<FileId>) -> Option<FileId> {
        let request = Request::Create { tenant: tenant.to_owned(), bytes: announced };
        let (Reply::Created { file, .. }, mut pipes) = self.ask(request) else { return None };
        // A reader that takes no more ends the pipe.
        let _ = pipes.pop().unwrap().write_all(bytes);
        (self.ask(Request::Commit { replaces }).0 == Reply::Done).then_some(file)
    }

    fn read(&self, tenant: &str) -> Option<(TenantKey, Vec<ReadFile>)> {
        let (Reply::Files { key, files }, opened) = self.ask(Request::List { tenant: tenant.to_owned() })
        else {
            return None;
        };
        let read = |mut file: File| {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).unwrap();
            bytes
        };
        Some((key, files.into_iter().zip(opened.into_iter().map(read)).collect()))
    }

    fn contents(&self, tenant: &str) -> Vec<Vec<u8>> {
        self.read(tenant).unwrap().1.into_iter().map(|(_, bytes)| bytes).collect()
    }
}

fn wait_until(condition: impl Fn() -> bool) {
    for _ in 0..500 {
        if condition() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("it did not come about");
}

fn names(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(names(&path)) } else { found.push(path) }
    }
    found.retain(|path| path.file_name().is_some_and(|name| name != "secret" && name != "of-secret"));
    found
}

#[test]
fn files_survive_and_are_private() {
    let folder = tempfile::tempdir().unwrap();
    let user = UserId::new();
    let tenant = user.to_string();
    let key = {
        let worker = Worker::new(&open(&config(folder.path()), &[user]), &[&tenant]);
        assert!(worker.contents(&tenant).is_empty());
        let first = worker.write(&tenant, b"one", 3, vec![]).unwrap();
        worker.write(&tenant, b"other", 5, vec![]).unwrap();
        worker.write(&tenant, b"one and more", 12, vec![first]).unwrap();
        // Two files of one millisecond are in either order.
        let mut contents = worker.contents(&tenant);
        contents.sort();
        assert_eq!(contents, [b"one and more".to_vec(), b"other".to_vec()]);
        worker.read(&tenant).unwrap().0
    };
    for path in names(folder.path()) {
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let name = path.to_string_lossy();
        assert!(!name.contains(&tenant[5..]), "{name}");
    }
    let worker = Worker::new(&open(&config(folder.path()), &[user]), &[&tenant, "10.0.0.1"]);
    let (again, files) = worker.read(&tenant).unwrap();
    assert_eq!((again, files.len()), (key.clone(), 2));
    assert_ne!(worker.read("10.0.0.1").unwrap().0, key);
    // The order of use is that of the files' times.
    let (oldest, _) = files[1];
    worker.ask(Request::Used { tenant: tenant.clone(), file: oldest });
    drop(worker);
    let worker = Worker::new(&open(&config(folder.path()), &[user]), &[&tenant]);
    assert_eq!(worker.read(&tenant).unwrap().1[0].0, oldest);
}

#[test]
fn a_worker_gets_nothing_of_tenants_whose_requests_it_has_not() {
    let folder = tempfile::tempdir().unwrap();
    let files = open(&config(folder.path()), &[]);
    let worker = Worker::new(&files, &["ann"]);
    let file = worker.write("ann", b"secret", 6, vec![]).unwrap();
    let other = Worker::new(&files, &["bob"]);
    assert!(other.read("ann").is_none() && other.write("ann", b"x", 1, vec![]).is_none());
    for tenant in ["ann", "bob"] {
        let (reply, opened) = other.ask(Request::Open { tenant: tenant.to_owned(), file });
        assert_eq!((reply, opened.len()), (Reply::Refused, 0));
        other.ask(Request::Discard { tenant: tenant.to_owned(), file, reason: Defect::Damaged });
    }
    // Nor can it replace them.
    other.write("bob", b"x", 1, vec![file]).unwrap();
    assert_eq!(worker.contents("ann"), [b"secret"]);
}

#[test]
fn half_files_are_none() {
    let folder = tempfile::tempdir().unwrap();
    let files = open(&config(folder.path()), &[]);
    let worker = Worker::new(&files, &["ann"]);
    assert!(worker.write("ann", b"too short", 10, vec![]).is_none());
    assert!(worker.write("ann", b"too long", 7, vec![]).is_none());
    assert!(worker.write("ann", b"", 0, vec![]).is_none());
    assert_eq!(worker.ask(Request::Commit { replaces: vec![] }).0, Reply::Refused);
    assert!(worker.contents("ann").is_empty());
    // One that is being written when the server dies.
    let (_, pipes) = worker.ask(Request::Create { tenant: "ann".to_owned(), bytes: 9 });
    assert_eq!(names(folder.path()).len(), 1);
    // One at a time.
    assert_eq!(worker.ask(Request::Create { tenant: "ann".to_owned(), bytes: 9 }).0, Reply::Refused);
    let again = open(&config(folder.path()), &[]);
    assert!(names(folder.path()).is_empty());
    assert!(Worker::new(&again, &["ann"]).contents("ann").is_empty());
    drop(pipes);
}

#[test]
fn the_limit_holds_and_nobody_loses_to_one_with_more() {
    let folder = tempfile::tempdir().unwrap();
    let files = open(&config(folder.path()), &[]);
    let worker = Worker::new(&files, &["ann", "bob"]);
    worker.write("bob", &vec![1; 300 << 10], 300 << 10, vec![]).unwrap();
    for _ in 0..20 {
        worker.write("ann", &vec![2; 100 << 10], 100 << 10, vec![]).unwrap();
    }
    assert_eq!((worker.contents("ann").len(), worker.contents("bob").len()), (7, 1));
    assert!(worker.write("ann", &[3; 1], 2 << 20, vec![]).is_none());
    let bytes: u64 = names(folder.path()).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert!(bytes <= 1 << 20, "{bytes}");
    // A lower limit applies at the next start.
    drop(worker);
    let files = PrefixFiles::new(&config(folder.path())).unwrap();
    let limit =
        Arc::into_inner(files.0.unwrap()).map(|shared| Shared { limit: 500 << 10, ..shared }).unwrap();
    let files = PrefixFiles(Some(Arc::new(limit)));
    files.start([]);
    let worker = Worker::new(&files, &["ann", "bob"]);
    let bytes: usize =
        ["ann", "bob"].iter().flat_map(|tenant| worker.contents(tenant)).map(|file| file.len()).sum();
    assert!(0 < bytes && bytes <= 500 << 10, "{bytes}");
}

#[test]
fn a_users_files_go_with_the_user() {
    let folder = tempfile::tempdir().unwrap();
    let (ann, bob) = (UserId::new(), UserId::new());
    let files = open(&config(folder.path()), &[ann, bob]);
    let deletions = files.watch_deletions().unwrap();
    let worker = Worker::new(&files, &[&ann.to_string(), &bob.to_string(), ""]);
    for tenant in [&ann.to_string(), &bob.to_string(), ""] {
        worker.write(tenant, b"text", 4, vec![]).unwrap();
    }
    deletions.apply(&Changes { accounts: vec![AccountChange::DeleteUser(ann)], ..Changes::default() });
    wait_until(|| names(folder.path()).len() == 1);
    // What its worker still has is not written either.
    assert!(worker.write(&ann.to_string(), b"text", 4, vec![]).is_none());
    assert_eq!(worker.contents(&bob.to_string()).len(), 1);
    // A server that died before that finds out at the next start.
    drop(worker);
    open(&config(folder.path()), &[]);
    assert!(names(folder.path()).is_empty());
}

#[test]
fn a_worker_that_dies_with_a_file_does_not_get_it_again() {
    let folder = tempfile::tempdir().unwrap();
    let files = open(&config(folder.path()), &[]);
    for (uses, died, left) in [(true, true, 1), (false, false, 1), (false, true, 0)] {
        let mut worker = Worker::new(&files, &["ann"]);
        if worker.contents("ann").is_empty() {
            worker.write("ann", b"text", 4, vec![]).unwrap();
        }
        let (file, _) = worker.read("ann").unwrap().1[0];
        worker.ask(Request::Open { tenant: "ann".to_owned(), file });
        if uses {
            worker.ask(Request::Used { tenant: "ann".to_owned(), file });
        }
        let link = worker.link.take().unwrap();
        drop(worker);
        link.end(died);
        if left == 0 {
            wait_until(|| names(folder.path()).is_empty());
        }
        assert_eq!(Worker::new(&files, &["ann"]).contents("ann").len(), left);
    }
}

#[test]
fn another_secret_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let keys = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let key = |text: &str| {
        let path = keys.path().join(text);
        fs::write(&path, text.repeat(8)).unwrap();
        StorageConfig { kv_key_file: Some(path), ..config(&data) }
    };
    let worker = Worker::new(&open(&key("first"), &[]), &["ann"]);
    worker.write("ann", b"text", 4, vec![]).unwrap();
    drop(worker);
    assert!(!data.join("kv/secret").exists());
    assert_eq!(Worker::new(&open(&key("first"), &[]), &["ann"]).contents("ann").len(), 1);
    assert!(Worker::new(&open(&key("other"), &[]), &["ann"]).contents("ann").is_empty());
    assert!(names(&data).is_empty());
    // A key inside the data folder is refused, also behind a link.
    fs::write(data.join("key"), "0123456789abcdef").unwrap();
    std::os::unix::fs::symlink(data.join("key"), keys.path().join("link")).unwrap();
    for path in [data.join("key"), keys.path().join("link"), keys.path().join("absent")] {
        let config = StorageConfig { kv_key_file: Some(path), ..config(&data) };
        assert!(matches!(PrefixFiles::new(&config), Err(StartError::Config(_))));
    }
}

#[test]
fn changed_files_and_strange_names_harm_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let files = open(&config(folder.path()), &[]);
    let worker = Worker::new(&files, &["ann"]);
    worker.write("ann", b"text", 4, vec![]).unwrap();
    worker.write("ann", b"other", 5, vec![]).unwrap();
    let paths = names(folder.path());
    fs::write(&paths[0], "longer than it was").unwrap();
    fs::remove_file(&paths[1]).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &paths[1]).unwrap();
    assert!(worker.contents("ann").is_empty());
    let place = paths[0].parent().unwrap().to_owned();
    fs::create_dir_all(place.join("0000000000000001-0000000000000001")).unwrap();
    fs::write(place.join("x"), "x").unwrap();
    fs::write(place.join("-.part"), "x").unwrap();
    fs::create_dir(folder.path().join("kv/strange")).unwrap();
    std::os::unix::fs::symlink("/", place.parent().unwrap().join(format!("u{}", "0".repeat(32)))).unwrap();
    let worker = Worker::new(&open(&config(folder.path()), &[]), &["ann"]);
    assert!(worker.contents("ann").is_empty());
}

#[test]
fn nothing_is_done_where_it_is_off() {
    let folder = tempfile::tempdir().unwrap();
    let files = open(&StorageConfig { kv_mib: 0, ..config(folder.path()) }, &[]);
    assert!(files.connect("", Arc::new(|_| None)).1.is_none());
    assert!(files.watch_deletions().is_none());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
