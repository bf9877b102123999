//! The rights that a worker and its helper give up before they see untrusted input.
//!
//! The server names in a variable of the environment how a worker is confined ([`Confinement`]), and the worker confines itself
//! first of all, while it has one thread: landlock and no_new_privs hold for the thread that asks for them and for the threads
//! and processes that it starts. The helper that compiles constraints inherits all of it and gives up more.

#[cfg(target_os = "linux")]
mod files;
mod paths;
#[cfg(target_os = "linux")]
mod syscalls;

use std::path::Path;

use jan_protocol::confinement::{Confinement, Restriction};

/// Confines this process, which has to have one thread, to reading `model` and the files needed for that. Returns the features
/// that the kernel lacks.
///
/// # Errors
/// A required restriction that the kernel lacks.
pub fn confine(confinement: &Confinement, model: &Path) -> Result<Vec<String>, String> {
    let mut lacking = Lacking::default();
    lacking.note("no_new_privs", confinement.no_new_privs, give_up_privileges)?;
    lacking.note("landlock", confinement.landlock, || restrict_files(confinement, model))?;
    lacking.note("seccomp", confinement.seccomp, || restrict_calls(confinement.gpu))?;
    Ok(lacking.0)
}

/// Confines a helper, on top of the restrictions that it inherits from its worker, to computing: it opens nothing but the
/// kernel's descriptions of processes, and starts nothing. The worker reports a kernel that lacks something.
pub fn confine_helper(confinement: &Confinement) {
    let mut lacking = Lacking::default();
    let _ = lacking.note("landlock", confinement.landlock.or_without(), restrict_helper_files);
    let _ = lacking.note("seccomp", confinement.seccomp.or_without(), restrict_helper_calls);
}

/// Restrictions that the kernel lacks.
#[derive(Debug, Default)]
struct Lacking(Vec<String>);

impl Lacking {
    fn note(
        &mut self,
        name: &str,
        wanted: Restriction,
        apply: impl FnOnce() -> Result<(), String>,
    ) -> Result<(), String> {
        if wanted == Restriction::Off {
            return Ok(());
        }
        match apply() {
            Ok(()) => {}
            Err(reason) if wanted == Restriction::Require => {
                return Err(format!(
                    "worker.{name} is \"require\", and this machine does not have it: {reason}; set it to \"auto\" to do \
                     without"
                ));
            }
            Err(reason) => self.0.push(format!("{name} ({reason})")),
        }
        Ok(())
    }
}

#[cfg(target_os = "linux")]
fn give_up_privileges() -> Result<(), String> {
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities, set_no_new_privs};

    // The needs of a superuser's worker: files whose modes leave it out, and memory and turns of its own.
    let kept = CapabilitySet::DAC_OVERRIDE
        | CapabilitySet::DAC_READ_SEARCH
        | CapabilitySet::IPC_LOCK
        | CapabilitySet::SYS_NICE;
    let mut sets = capabilities(None).map_err(|error| error.to_string())?;
    sets.effective &= kept;
    sets.permitted &= kept;
    sets.inheritable = CapabilitySet::empty();
    set_no_new_privs(true).map_err(|error| error.to_string())?;
    set_capabilities(None, sets).map_err(|error| error.to_string())
}

#[cfg(target_os = "linux")]
fn restrict_files(confinement: &Confinement, model: &Path) -> Result<(), String> {
    let names = std::fs::read_dir("/dev").into_iter().flatten().flatten();
    let seen = paths::Seen {
        mapped: std::fs::read_to_string("/proc/self/maps").unwrap_or_default(),
        devices: names.filter_map(|entry| entry.file_name().into_string().ok()).collect(),
        library_paths: ["LD_LIBRARY_PATH", "GGML_BACKEND_PATH"]
            .iter()
            .filter_map(std::env::var_os)
            .flat_map(|paths| std::env::split_paths(&paths).collect::<Vec<_>>())
            .collect(),
    };
    files::restrict(&paths::needed(confinement, model, &seen))
}

#[cfg(target_os = "linux")]
fn restrict_helper_files() -> Result<(), String> {
    files::restrict(&paths::needed_by_helper())
}

#[cfg(target_os = "linux")]
fn restrict_calls(gpu: bool) -> Result<(), String> {
    syscalls::restrict(if gpu { syscalls::Process::GpuWorker } else { syscalls::Process::Worker })
}

#[cfg(target_os = "linux")]
fn restrict_helper_calls() -> Result<(), String> {
    syscalls::restrict(syscalls::Process::Helper)
}

#[cfg(not(target_os = "linux"))]
const ELSEWHERE: &str = "it is for Linux";

#[cfg(not(target_os = "linux"))]
fn give_up_privileges() -> Result<(), String> {
    Err(ELSEWHERE.to_owned())
}

#[cfg(not(target_os = "linux"))]
fn restrict_files(_: &Confinement, _: &Path) -> Result<(), String> {
    Err(ELSEWHERE.to_owned())
}

#[cfg(not(target_os = "linux"))]
fn restrict_helper_files() -> Result<(), String> {
    Err(ELSEWHERE.to_owned())
}

#[cfg(not(target_os = "linux"))]
fn restrict_calls(_: bool) -> Result<(), String> {
    Err(ELSEWHERE.to_owned())
}

#[cfg(not(target_os = "linux"))]
fn restrict_helper_calls() -> Result<(), String> {
    Err(ELSEWHERE.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lacking_is_noted_or_refused() {
        let lack = || Err("too old".to_owned());
        let mut lacking = Lacking::default();
        lacking.note("seccomp", Restriction::Off, || unreachable!("it is off")).unwrap();
        lacking.note("seccomp", Restriction::Auto, lack).unwrap();
        lacking.note("landlock", Restriction::Require, || Ok(())).unwrap();
        assert_eq!(lacking.0, ["seccomp (too old)"]);
        let refusal = lacking.note("landlock", Restriction::Require, lack).unwrap_err();
        assert!(refusal.contains("worker.landlock") && refusal.contains("too old"), "{refusal}");
        assert_eq!(lacking.0.len(), 1);
    }
}
