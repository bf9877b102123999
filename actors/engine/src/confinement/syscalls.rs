//! seccomp: the kernel refuses system calls that a worker has no use for.
//!
//! It is a list of refused calls (`EPERM`) rather than of allowed ones: drivers of GPUs and the C library use calls that differ
//! by version, and a worker that an upgrade ends is worth less than the gain from refusing a rare call. Refused are the network,
//! other processes' memory, changes of the machine, and the parts of the kernel that most of its holes were in.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};

/// The process that makes the calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Process {
    /// A worker that computes on CPUs.
    Worker,
    /// A worker whose driver may have a service and the kernel's devices to talk to, over Unix and netlink sockets.
    GpuWorker,
    /// A helper that compiles constraints.
    Helper,
}

/// Refused to all.
const REFUSED: &[c_long] = &[
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    // File systems.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_quotactl,
    libc::SYS_mknodat,
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    // Namespaces, identity and privileges.
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
    libc::SYS_capset,
    // The machine.
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_kexec_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_acct,
    libc::SYS_syslog,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_vhangup,
    // Large parts of the kernel; io_uring would also go round this filter.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // Programs without a path.
    libc::SYS_execveat,
];

#[cfg(target_arch = "x86_64")]
const REFUSED_HERE: &[c_long] = &[
    libc::SYS_kexec_file_load,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS_mknod,
    libc::SYS_uselib,
    libc::SYS_kcmp,
];

#[cfg(not(target_arch = "x86_64"))]
const REFUSED_HERE: &[c_long] = &[];

/// Connections to others; the one to the server is there already.
const CONNECTING: &[c_long] =
    &[libc::SYS_connect, libc::SYS_bind, libc::SYS_listen, libc::SYS_accept, libc::SYS_accept4];

/// Calls of the x32 ABI that have numbers of their own: `ptrace`, `kexec_load`, `process_vm_readv`, `process_vm_writev`,
/// `execveat`. The others are the usual ones with [`X32`] set.
#[cfg(target_arch = "x86_64")]
const X32_REFUSED: &[c_long] = &[X32 + 521, X32 + 528, X32 + 539, X32 + 540, X32 + 545];

/// Marks calls of the x32 ABI, which have the architecture of the usual ones.
#[cfg(target_arch = "x86_64")]
const X32: c_long = 0x4000_0000;

/// Flags of `clone` that make namespaces: cgroup, UTS, IPC, user, PID, network, mounts.
const NAMESPACES: &[i32] = &[
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWNS,
];

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Restricts this thread and those that it starts. Sets no_new_privs.
pub fn restrict(process: Process) -> Result<(), String> {
    for filter in filters(process).map_err(|error| error.to_string())? {
        apply_filter(&filter).map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn filters(process: Process) -> Result<[BpfProgram; 2], BackendError> {
    let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
    let filter = |rules, errno: i32| -> Result<BpfProgram, BackendError> {
        let refuse = SeccompAction::Errno(errno.unsigned_abs());
        SeccompFilter::new(rules, SeccompAction::Allow, refuse, architecture)?.try_into()
    };
    // `clone3` has its flags where a filter does not see them. The C library falls back to `clone` if there is none.
    let absent = with_x32([(libc::SYS_clone3, vec![])].into());
    Ok([filter(with_x32(refused(process)?), libc::EPERM)?, filter(absent, libc::ENOSYS)?])
}

fn refused(process: Process) -> Result<Rules, BackendError> {
    let mut rules: Rules = REFUSED.iter().chain(REFUSED_HERE).map(|&call| (call, vec![])).collect();
    match process {
        Process::GpuWorker => {
            rules.insert(
                libc::SYS_socket,
                vec![SeccompRule::new(vec![is_not(0, libc::AF_UNIX)?, is_not(0, libc::AF_NETLINK)?])?],
            );
        }
        Process::Worker | Process::Helper => {
            rules.insert(libc::SYS_socket, vec![]);
            rules.extend(CONNECTING.iter().map(|&call| (call, vec![])));
            // A pair of datagram sockets could be connected to a service of this machine.
            rules.insert(libc::SYS_socketpair, vec![SeccompRule::new(vec![has(1, 0xf, libc::SOCK_DGRAM)?])?]);
        }
    }
    if process == Process::Helper {
        rules.extend([(libc::SYS_execve, vec![]), (libc::SYS_socketpair, vec![])]);
    }
    let namespaces: Result<Vec<_>, _> =
        NAMESPACES.iter().map(|&flag| SeccompRule::new(vec![has(0, flag, flag)?])).collect();
    rules.insert(libc::SYS_clone, namespaces?);
    // Calls that type into the terminal that standard error may be.
    let typing = [libc::TIOCSTI as i32, libc::TIOCLINUX as i32];
    let typing: Result<Vec<_>, _> = typing.iter().map(|&what| SeccompRule::new(vec![is(1, what)?])).collect();
    rules.insert(libc::SYS_ioctl, typing?);
    // Limits of other processes.
    rules.insert(libc::SYS_prlimit64, vec![SeccompRule::new(vec![is_not(0, 0)?])?]);
    Ok(rules)
}

#[cfg(target_arch = "x86_64")]
fn with_x32(mut rules: Rules) -> Rules {
    let same: Vec<_> = rules.iter().map(|(call, rules)| (call + X32, rules.clone())).collect();
    rules.extend(same);
    rules.extend(X32_REFUSED.iter().map(|&call| (call, vec![])));
    rules
}

#[cfg(not(target_arch = "x86_64"))]
fn with_x32(rules: Rules) -> Rules {
    rules
}

fn compare(argument: u8, operation: SeccompCmpOp, value: i32) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operation, u64::from(value.cast_unsigned()))
}

fn is(argument: u8, value: i32) -> Result<SeccompCondition, BackendError> {
    compare(argument, SeccompCmpOp::Eq, value)
}

fn is_not(argument: u8, value: i32) -> Result<SeccompCondition, BackendError> {
    compare(argument, SeccompCmpOp::Ne, value)
}

fn has(argument: u8, mask: i32, value: i32) -> Result<SeccompCondition, BackendError> {
    compare(argument, SeccompCmpOp::MaskedEq(u64::from(mask.cast_unsigned())), value)
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::{TcpListener, UdpSocket};
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
    use std::process::Command;

    use super::*;

    /// Runs `check` on a thread that is restricted, or prints that this kernel does not support it.
    fn restricted(process: Process, check: impl FnOnce() + Send + 'static) {
        let thread = std::thread::spawn(move || match restrict(process) {
            Ok(()) => check(),
            Err(reason) => eprintln!("this kernel has no seccomp, so nothing was tried: {reason}"),
        });
        thread.join().unwrap();
    }

    fn refused<T>(result: std::io::Result<T>) {
        let error = result.err().map(|error| error.kind());
        assert_eq!(error, Some(ErrorKind::PermissionDenied));
    }

    #[test]
    fn a_worker_reaches_nobody_and_starts_its_helper() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let _listener = UnixListener::bind(&path).unwrap();
        let other = rustix::process::getppid();
        restricted(Process::Worker, move || {
            refused(TcpListener::bind("127.0.0.1:0"));
            refused(UdpSocket::bind("127.0.0.1:0"));
            refused(UnixStream::connect(&path));
            refused(UnixDatagram::unbound());
            refused(UnixDatagram::pair());
            refused(rustix::process::chroot("/").map_err(Into::into));
            let limit = rustix::process::getrlimit(rustix::process::Resource::Core);
            refused(
                rustix::process::prlimit(other, rustix::process::Resource::Core, limit).map_err(Into::into),
            );
            // The operations that it needs continue.
            rustix::process::setrlimit(rustix::process::Resource::Core, limit).unwrap();
            let (_one, _other) = UnixStream::pair().unwrap();
            std::thread::spawn(|| refused(TcpListener::bind("127.0.0.1:0"))).join().unwrap();
            assert!(Command::new("/proc/self/exe").arg("--list").output().unwrap().status.success());
        });
    }

    #[test]
    fn a_gpus_worker_reaches_its_driver_alone() {
        restricted(Process::GpuWorker, || {
            refused(TcpListener::bind("127.0.0.1:0"));
            refused(UdpSocket::bind("[::1]:0"));
            UnixDatagram::unbound().unwrap();
        });
    }

    #[test]
    fn a_helper_starts_nothing() {
        restricted(Process::Worker, || {
            restrict(Process::Helper).unwrap();
            refused(Command::new("/proc/self/exe").arg("--list").output());
            refused(UnixStream::pair());
            std::thread::spawn(|| ()).join().unwrap();
            assert!(jan_protocol::memory::resident_kib().is_some());
        });
    }

    #[test]
    fn no_other_numbers_lead_to_what_is_refused() {
        let rules = with_x32(super::refused(Process::Worker).unwrap());
        assert!(rules[&libc::SYS_ptrace].is_empty() && rules[&libc::SYS_connect].is_empty());
        if cfg!(target_arch = "x86_64") {
            assert!(rules.len() > REFUSED.len() * 2);
            assert!(rules.contains_key(&(libc::SYS_io_uring_setup + 0x4000_0000)));
        }
        for process in [Process::Worker, Process::GpuWorker, Process::Helper] {
            // The kernel takes 4,096 instructions.
            assert!(
                filters(process).unwrap().iter().all(|filter| !filter.is_empty() && filter.len() <= 4096)
            );
        }
    }
}
