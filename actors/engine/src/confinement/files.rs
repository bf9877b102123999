//! landlock: the kernel refuses to open, make and remove anything that is not on a list, connections over TCP, and signals
//! and abstract Unix sockets to processes outside.

use std::path::PathBuf;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus, PathBeneath,
    PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
};

use super::paths::Access;

/// The version of landlock whose rights are named here. Rights that a kernel with an older version does not know are left out.
const KNOWN: ABI = ABI::V6;

/// Versions before it do not keep files from being cut.
const LEAST: i32 = 3;

impl Access {
    fn rights(self) -> BitFlags<AccessFs> {
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        match self {
            Self::Read => read,
            Self::Run => read | AccessFs::Execute,
            Self::Device => read | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::IoctlDev,
            Self::Write => AccessFs::from_all(KNOWN) & !AccessFs::Execute,
        }
    }
}

/// Restricts this thread, and those that it starts, to the paths on the list. Paths that do not exist are left out.
pub fn restrict(list: &[(PathBuf, Access)]) -> Result<(), String> {
    let text = |error: landlock::RulesetError| error.to_string();
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(KNOWN))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(KNOWN)))
        .and_then(|rules| rules.scope(Scope::from_all(KNOWN)))
        .and_then(Ruleset::create)
        .map_err(text)?;
    for (path, access) in list {
        if let Ok(opened) = PathFd::new(path) {
            rules = rules.add_rule(PathBeneath::new(opened, access.rights())).map_err(text)?;
        }
    }
    let status = rules.restrict_self().map_err(text)?;
    match (status.landlock, status.ruleset) {
        (LandlockStatus::NotImplemented, _) => {
            Err("the kernel was built without it, or a container's filter hides it".to_owned())
        }
        (LandlockStatus::NotEnabled, _) => Err("it is not among the kernel's lsm=… modules".to_owned()),
        (_, RulesetStatus::NotEnforced) => Err("the kernel does not enforce it".to_owned()),
        (LandlockStatus::Available { effective_abi, .. }, _) if (effective_abi as i32) < LEAST => {
            Err(format!(
                "the kernel has version {} of it, and {LEAST} (Linux 6.2) is the first that keeps files from being cut; \
             what it has is in effect",
                effective_abi as i32
            ))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::ErrorKind;
    use std::net::TcpListener;

    use super::*;

    fn refused<T>(result: std::io::Result<T>) {
        let error = result.err().map(|error| error.kind());
        assert_eq!(error, Some(ErrorKind::PermissionDenied));
    }

    #[test]
    fn what_is_not_on_the_list_is_closed() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().to_owned();
        let at = move |name: &str| root.join(name);
        for name in ["model", "behind", "other", "library"] {
            fs::write(at(name), name).unwrap();
        }
        std::os::unix::fs::symlink(at("behind"), at("link")).unwrap();
        fs::create_dir(at("cache")).unwrap();
        let list = [
            (at("model"), Access::Read),
            (at("link"), Access::Read),
            (at("library"), Access::Run),
            (at("cache"), Access::Write),
            (at("absent"), Access::Read),
        ];
        let check = move || {
            if let Err(reason) = restrict(&list) {
                eprintln!("this kernel has no landlock, so nothing was tried: {reason}");
                return;
            }
            for name in ["model", "behind", "link", "library"] {
                fs::read(at(name)).unwrap();
                refused(fs::write(at(name), "x"));
                refused(fs::OpenOptions::new().append(true).open(at(name)));
                refused(fs::remove_file(at(name)));
            }
            refused(fs::read(at("other")));
            refused(fs::read("/etc/passwd"));
            refused(fs::read_dir("/"));
            refused(fs::write(at("new"), "x"));
            refused(fs::rename(at("other"), at("cache/other")));
            fs::write(at("cache/new"), "x").unwrap();
            // Others' environment and memory, regardless of /proc's permissions.
            refused(fs::read(format!(
                "/proc/{}/environ",
                rustix::process::getppid().unwrap().as_raw_nonzero()
            )));
            // Threads that it starts have it too.
            std::thread::spawn(|| refused(fs::read("/etc/passwd"))).join().unwrap();
            match TcpListener::bind("127.0.0.1:0") {
                Ok(_) => eprintln!("this kernel's landlock does not keep from the network"),
                Err(error) => assert_eq!(error.kind(), ErrorKind::PermissionDenied),
            }
        };
        std::thread::spawn(check).join().unwrap();
        // It holds that thread alone.
        fs::read("/etc/passwd").unwrap();
    }
}
