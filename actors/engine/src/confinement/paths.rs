//! The paths that a worker may open: computed from its model's configuration and its process's open files.
//!
//! A chat template needs no place in the list: the server reads it and sends its text. There are no adapters and no projectors.
//! Nothing is opened later whose path is not known at the start.

#![cfg_attr(not(target_os = "linux"), allow(dead_code))]

use std::path::{Path, PathBuf};

use jan_protocol::confinement::Confinement;

/// The access allowed to a file, or to those in a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Reading.
    Read,
    /// Reading and running.
    Run,
    /// Reading, writing, and operations that only devices have.
    Device,
    /// Everything.
    Write,
}

/// The state of a process and its machine.
#[derive(Debug, Default)]
pub struct Seen {
    /// `/proc/self/maps`.
    pub mapped: String,
    /// The names in `/dev`.
    pub devices: Vec<String>,
    /// Folders in the loader's search path.
    pub library_paths: Vec<PathBuf>,
}

/// The libraries of a system. All of a folder, since an upgrade under a running server replaces files, and the helper is
/// started anew with the new ones.
const LIBRARIES: &[&str] = &["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib"];

/// The kernel's descriptions of the machine and of processes. Others' memory, files and environment stay closed: landlock keeps
/// them from every process that it restricts, as ptrace. A helper's own folder cannot be named before it runs.
const PROCESSES: &str = "/proc";

const READ: &[&str] = &[
    "/etc/ld.so.cache",
    PROCESSES,
    "/sys/devices/system",
    "/sys/fs/cgroup",
    "/sys/kernel/mm/transparent_hugepage",
    "/dev/random",
    "/dev/urandom",
    "/dev/zero",
];

/// Paths that drivers of GPUs read: their libraries' other places and descriptions of devices.
const READ_FOR_GPUS: &[&str] = &[
    "/etc/OpenCL",
    "/etc/nvidia",
    "/etc/vulkan",
    "/nix/store",
    "/run/opengl-driver",
    "/sys/bus",
    "/sys/class",
    "/sys/dev",
    "/sys/devices",
    "/sys/module",
    "/usr/share/drirc.d",
    "/usr/share/libdrm",
    "/usr/share/nvidia",
    "/usr/share/vulkan",
];

/// Folders in which the makers of GPUs put libraries.
const LIBRARIES_FOR_GPUS: &[&str] = &["/opt", "/usr/local"];

/// Everything that a worker may open.
pub fn needed(confinement: &Confinement, model: &Path, seen: &Seen) -> Vec<(PathBuf, Access)> {
    let fixed =
        |paths: &'static [&'static str], access| paths.iter().map(move |path| (PathBuf::from(path), access));
    let all = |paths: &[PathBuf], access| {
        paths.iter().map(|path| (path.clone(), access)).collect::<Vec<_>>().into_iter()
    };
    let models = [model, &confinement.draft_model].into_iter().filter(|path| !path.as_os_str().is_empty());
    let mut needed: Vec<_> = models.flat_map(parts).map(|part| (part, Access::Read)).collect();
    // This program, also where its file has been replaced meanwhile: the helper is another of its processes.
    needed.push((PathBuf::from("/proc/self/exe"), Access::Run));
    needed.extend(mapped(&seen.mapped).map(|path| (path, Access::Run)));
    // An empty entry is the folder that the process was started in.
    let libraries = seen.library_paths.iter().filter(|path| path.is_absolute());
    needed.extend(libraries.map(|path| (path.clone(), Access::Run)));
    needed.extend(fixed(LIBRARIES, Access::Run).chain(fixed(READ, Access::Read)));
    needed.push((PathBuf::from("/dev/null"), Access::Device));
    if confinement.gpu {
        needed.extend(fixed(LIBRARIES_FOR_GPUS, Access::Run).chain(fixed(READ_FOR_GPUS, Access::Read)));
        let devices = seen.devices.iter().filter(|name| is_gpu(name));
        needed.extend(devices.map(|name| (Path::new("/dev").join(name), Access::Device)));
        needed.push((PathBuf::from("/dev/shm"), Access::Write));
    }
    needed.extend(all(&confinement.readable, Access::Run).chain(all(&confinement.writable, Access::Write)));
    needed
}

/// Everything that a helper may open: it looks at how much memory it has taken.
pub fn needed_by_helper() -> Vec<(PathBuf, Access)> {
    vec![(PathBuf::from(PROCESSES), Access::Read)]
}

/// The files of a model: all parts where it is split (`NAME-00001-of-00003.gguf`), as llama.cpp finds them.
fn parts(model: &Path) -> Vec<PathBuf> {
    split(model).unwrap_or_else(|| vec![model.to_owned()])
}

fn split(model: &Path) -> Option<Vec<PathBuf>> {
    let is_number = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    let name = model.file_name()?.to_str()?.strip_suffix(".gguf")?;
    let (rest, count) = name.rsplit_once("-of-").filter(|(_, count)| is_number(count))?;
    let (prefix, _) = rest.rsplit_once('-').filter(|(_, number)| is_number(number))?;
    let numbers = 1..=count.parse::<u32>().ok()?;
    Some(
        numbers.map(|number| model.with_file_name(format!("{prefix}-{number:05}-of-{count}.gguf"))).collect(),
    )
}

/// The files that a process has mapped: its program and libraries, wherever the loader found them.
fn mapped(maps: &str) -> impl Iterator<Item = PathBuf> {
    let mut paths: Vec<&str> = maps
        .lines()
        .filter_map(|line| line.find('/').map(|begin| &line[begin..]))
        .filter(|path| !path.ends_with(" (deleted)") && !path.starts_with("/dev/"))
        .collect();
    paths.sort_unstable();
    paths.dedup();
    paths.into_iter().map(PathBuf::from).collect::<Vec<_>>().into_iter()
}

fn is_gpu(device: &str) -> bool {
    // NVIDIA, the vendor-neutral Direct Rendering Manager, AMD's compute, WSL, Moore Threads, Ascend.
    ["nvidia", "dri", "kfd", "dxg", "mtgpu", "davinci", "devmm_svm", "hisi_hdc"]
        .iter()
        .any(|known| device.starts_with(known))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAPS: &str = "\
55d0-55d1 r-xp 00000000 fe:00 12 /usr/local/bin/jan-server
7f00-7f01 r--p 00000000 fe:00 13 /opt/libs with space/libggml.so
7f01-7f02 r-xp 00001000 fe:00 13 /opt/libs with space/libggml.so
7f02-7f03 r--p 00000000 fe:00 14 /tmp/old.so (deleted)
7f03-7f04 rw-s 00000000 00:05 15 /dev/nvidia0
7ffd-7ffe rw-p 00000000 00:00 0 [stack]
";

    fn seen() -> Seen {
        Seen {
            mapped: MAPS.to_owned(),
            devices: ["null", "sda", "nvidia0", "nvidiactl", "nvidia-uvm", "dri", "kfd", "mem", "tty"]
                .map(str::to_owned)
                .to_vec(),
            library_paths: vec!["/opt/cuda/lib64".into(), "".into(), "relative".into()],
        }
    }

    fn access_to(list: &[(PathBuf, Access)], path: &str) -> Option<Access> {
        list.iter().find(|(known, _)| known == Path::new(path)).map(|(_, access)| *access)
    }

    #[test]
    fn a_model_on_the_cpu() {
        let confinement = Confinement {
            readable: vec!["/srv/more".into()],
            draft_model: "models/small-00001-of-00002.gguf".into(),
            ..Confinement::default()
        };
        let list = needed(&confinement, Path::new("models/a.gguf"), &seen());
        for read in ["models/a.gguf", "models/small-00001-of-00002.gguf", "models/small-00002-of-00002.gguf"]
        {
            assert_eq!(access_to(&list, read), Some(Access::Read), "{read}");
        }
        assert_eq!(access_to(&list, "/proc/self/exe"), Some(Access::Run));
        assert_eq!(access_to(&list, "/opt/libs with space/libggml.so"), Some(Access::Run));
        assert_eq!(access_to(&list, "/opt/cuda/lib64"), Some(Access::Run));
        assert_eq!(access_to(&list, "/srv/more"), Some(Access::Run));
        // Nothing of the server's own, no device but the one that swallows everything, and nothing to write to.
        for closed in [
            "/",
            "/etc",
            "/home",
            "/root",
            "/tmp",
            "/dev",
            "/dev/nvidia0",
            "/dev/dri",
            "/dev/shm",
            "",
            "relative",
            "models",
            "/tmp/old.so",
        ] {
            assert_eq!(access_to(&list, closed), None, "{closed}");
        }
        let devices: Vec<_> = list.iter().filter(|(_, access)| *access == Access::Device).collect();
        assert_eq!(devices.len(), 1, "{devices:?}");
        assert!(!list.iter().any(|(_, access)| *access == Access::Write));
    }

    #[test]
    fn a_model_on_a_gpu() {
        let confinement =
            Confinement { gpu: true, writable: vec!["/var/cache/nv".into()], ..Confinement::default() };
        let list = needed(&confinement, Path::new("/m/a.gguf"), &seen());
        for device in ["nvidia0", "nvidiactl", "nvidia-uvm", "dri", "kfd", "null"] {
            assert_eq!(access_to(&list, &format!("/dev/{device}")), Some(Access::Device), "{device}");
        }
        for device in ["sda", "mem", "tty"] {
            assert_eq!(access_to(&list, &format!("/dev/{device}")), None, "{device}");
        }
        let mut writable: Vec<_> = list.iter().filter(|(_, access)| *access == Access::Write).collect();
        writable.sort();
        assert_eq!(
            writable.iter().map(|(path, _)| path.to_str().unwrap()).collect::<Vec<_>>(),
            ["/dev/shm", "/var/cache/nv"]
        );
    }

    #[test]
    fn all_parts_of_a_model() {
        let parts = |path: &str| {
            parts(Path::new(path)).iter().map(|part| part.to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(
            parts("/m/big-of-it-00001-of-00003.gguf"),
            [1, 2, 3].map(|number| format!("/m/big-of-it-0000{number}-of-00003.gguf"))
        );
        for whole in
            ["/m/a.gguf", "a-of-b.gguf", "x-00001-of-3.gguf", "x-1-of-00003.gguf", "x-00001-of-00003", "/"]
        {
            assert_eq!(parts(whole), [whole], "{whole}");
        }
    }

    proptest! {
        #[test]
        fn the_model_itself_is_among_its_parts(prefix in "[a-z-]{0,8}", number in 1u32..20, more in 0u32..20) {
            let path = PathBuf::from(format!("/m/{prefix}-{number:05}-of-{:05}.gguf", number + more));
            let parts = parts(&path);
            prop_assert_eq!(parts.len(), (number + more) as usize);
            prop_assert!(parts.contains(&path));
        }

        #[test]
        fn no_name_breaks_it(name in ".*", maps in ".*") {
            let _ = needed(&Confinement::default(), Path::new(&name), &Seen { mapped: maps, ..Seen::default() });
        }
    }
}
