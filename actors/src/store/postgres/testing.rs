//! Throw-away PostgreSQL servers for tests: on a Unix socket in a temporary folder, as a user that is not root.

use std::fs::Permissions;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::config::{DatabaseUrl, StorageConfig, StorageKind};

/// A server. It ends, and its folder is removed, when this is dropped or the process ends in whatever way.
#[derive(Debug)]
pub struct Cluster {
    /// Its folder, with the socket.
    pub folder: PathBuf,
    /// A shell that stops the server once its standard input ends.
    keeper: Child,
}

/// The folder of PostgreSQL's programs.
fn programs() -> PathBuf {
    let mut found: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|version| version.path().join("bin"))
        .filter(|folder| folder.join("initdb").exists())
        .collect();
    found.sort();
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&on_path).find(|folder| folder.join("initdb").exists());
    found.pop().or(on_path).expect(
        "these tests need a PostgreSQL server, and no initdb is in /usr/lib/postgresql/*/bin or on the path; \
         `make setup-check` installs it",
    )
}

/// Nobody and nobody's group, whose name differs between systems.
const NOBODY: &str = "65534:65534";

/// A command as a user that PostgreSQL accepts: it refuses to run as root.
fn unprivileged(program: impl AsRef<std::ffi::OsStr>) -> Command {
    if !rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(program);
    command
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {text}{}", String::from_utf8_lossy(&output.stdout));
}

impl Cluster {
    /// Makes and starts a server with those lines in its configuration.
    pub fn start(settings: &str) -> Self {
        // Short, since the path of a socket is.
        let folder = tempfile::Builder::new().prefix("jan-pg-").tempdir_in("/tmp").unwrap().keep();
        std::fs::set_permissions(&folder, Permissions::from_mode(0o700)).unwrap();
        if rustix::process::geteuid().is_root() {
            run(Command::new("chown").arg(NOBODY).arg(&folder));
        }
        let data = folder.join("data");
        run(unprivileged(programs().join("initdb"))
            .args(["--auth=trust", "--username=jan", "--encoding=UTF8", "--locale=C", "--no-sync", "-D"])
            .arg(&data)
            .current_dir(&folder));
        let mut file = std::fs::OpenOptions::new().append(true).open(data.join("postgresql.conf")).unwrap();
        let socket = folder.display();
        writeln!(
            file,
            "listen_addresses = ''\nunix_socket_directories = '{socket}'\nmax_connections = 200\n\
             shared_buffers = 32MB\n{settings}"
        )
        .unwrap();
        let keeper = Self::keep(&folder);
        let cluster = Self { folder, keeper };
        cluster.wait();
        cluster
    }

    /// Starts the server under a shell that stops it and removes everything once this process is gone.
    fn keep(folder: &Path) -> Child {
        let script = "\"$1/postgres\" -D \"$2/data\" >>\"$2/log\" 2>&1 & server=$!; read how; \
                      case \"$how\" in crash) kill -QUIT $server; wait $server;; \
                      *) kill -INT $server; wait $server; rm -rf \"$2\";; esac";
        unprivileged("sh")
            .args(["-c", script, "sh"])
            .arg(programs())
            .arg(folder)
            .current_dir("/")
            .stdin(Stdio::piped())
            .spawn()
            .unwrap()
    }

    fn wait(&self) {
        let begun = Instant::now();
        while !Command::new(programs().join("pg_isready"))
            .args(["--quiet", "--username=jan", "--dbname=postgres", "--host"])
            .arg(&self.folder)
            .status()
            .unwrap()
            .success()
        {
            let log = || std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            assert!(begun.elapsed() < Duration::from_secs(60), "PostgreSQL does not start: {}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it as a crash would, without a checkpoint.
    pub fn crash(&mut self) {
        self.keeper.stdin.take().unwrap().write_all(b"crash\n").unwrap();
        self.keeper.wait().unwrap();
    }

    /// Starts it again, after which it recovers.
    pub fn restart(&mut self) {
        self.keeper = Self::keep(&self.folder);
        self.wait();
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("postgres://jan@/postgres?host={}", self.folder.display())
    }

    /// Settings of a store in a schema there.
    pub fn storage(&self, schema: &str, folder: &Path) -> StorageConfig {
        StorageConfig {
            path: folder.to_owned(),
            kind: StorageKind::Postgres,
            url: Some(DatabaseUrl::new(self.url())),
            schema: schema.to_owned(),
            pool_size: 8,
            shared: true,
            allow_unsafe_durability: true,
            min_free_mib: 0,
            ..StorageConfig::default()
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

/// The server that most tests share, each with a schema of its own. It ends with the process.
pub fn shared() -> &'static Cluster {
    static SHARED: OnceLock<Cluster> = OnceLock::new();
    SHARED.get_or_init(|| Cluster::start("fsync = off\nautovacuum = off"))
}

/// The folder of the socket of a pgbouncer in front of the shared server, in transaction mode. It ends with the process.
fn bouncer() -> &'static Path {
    static BOUNCER: OnceLock<(PathBuf, Child)> = OnceLock::new();
    let start = || {
        let folder = shared().folder.join("bouncer");
        std::fs::create_dir(&folder).unwrap();
        let (server, here) = (shared().folder.display(), folder.display());
        let settings = format!(
            "[databases]\npostgres = host={server} dbname=postgres user=jan\n[pgbouncer]\nlisten_addr =\n\
             unix_socket_dir = {here}\nlisten_port = 5432\nauth_type = any\npool_mode = transaction\n\
             default_pool_size = 30\nmax_client_conn = 1000\nlogfile = {here}/log\npidfile = {here}/pid\n"
        );
        std::fs::write(folder.join("bouncer.ini"), settings).unwrap();
        if rustix::process::geteuid().is_root() {
            run(Command::new("chown").arg("-R").arg(NOBODY).arg(&folder));
        }
        let program = Path::new("/usr/sbin/pgbouncer");
        let program = if program.exists() { program } else { Path::new("pgbouncer") };
        let script = "\"$1\" -q \"$2/bouncer.ini\" & server=$!; read how; kill -INT $server; wait $server";
        let keeper = unprivileged("sh")
            .args(["-c", script, "sh"])
            .arg(program)
            .arg(&folder)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let begun = Instant::now();
        while !folder.join(".s.PGSQL.5432").exists() {
            assert!(
                begun.elapsed() < Duration::from_secs(30),
                "these tests need pgbouncer, and {} does not start; `make setup-check` installs it",
                program.display()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        (folder, keeper)
    };
    &BOUNCER.get_or_init(start).0
}

/// Settings of a store in a schema of the shared server, with a pgbouncer in between.
pub fn bounced(schema: &str, folder: &Path) -> StorageConfig {
    let url = format!("postgres://jan@/postgres?host={}", bouncer().display());
    StorageConfig {
        url: Some(DatabaseUrl::new(url)),
        direct_url: Some(DatabaseUrl::new(shared().url())),
        ..shared().storage(schema, folder)
    }
}

/// A schema that no other test has.
pub fn new_schema() -> String {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    format!("t{}", NUMBER.fetch_add(1, Ordering::Relaxed))
}
