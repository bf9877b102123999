//! Restrictions under which a worker process runs: the data; the engine's crate applies them.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The use of a restriction of workers that not every kernel supports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Restriction {
    /// Applied if the kernel supports it.
    #[default]
    Auto,
    /// No.
    Off,
    /// Workers do not work where it cannot.
    Require,
}

impl Restriction {
    /// Returns the same restriction, but optional.
    #[must_use]
    pub const fn or_without(self) -> Self {
        match self {
            Self::Off => Self::Off,
            Self::Auto | Self::Require => Self::Auto,
        }
    }
}

/// The variable that a worker finds its [`Confinement`] in, as JSON.
pub const VARIABLE: &str = "JAN_WORKER_CONFINEMENT";

/// The confinement of a worker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    /// The loss of a superuser's privileges, and of the ability to gain any.
    pub no_new_privs: Restriction,
    /// The restriction to opening needed paths and nothing else.
    pub landlock: Restriction,
    /// The refusal of system calls that it has no use for.
    pub seccomp: Restriction,
    /// `true` if it computes on a GPU.
    pub gpu: bool,
    /// The GGUF file; empty: the model in the program.
    pub model: PathBuf,
    /// The GGUF file of the draft model; empty: there is none.
    #[serde(default)]
    pub draft_model: PathBuf,
    /// The folder that it is unpacked into.
    pub unpack_folder: PathBuf,
    /// Further paths that it may read.
    pub readable: Vec<PathBuf>,
    /// Paths that it may write to.
    pub writable: Vec<PathBuf>,
}

impl Confinement {
    /// Reads the confinement that the server put into this process's environment.
    ///
    /// # Errors
    /// It is not there, or is something else.
    pub fn from_environment() -> Result<Self, String> {
        let text = std::env::var(VARIABLE).map_err(|error| format!("{VARIABLE}: {error}"))?;
        serde_json::from_str(&text).map_err(|error| format!("{VARIABLE}: {error}"))
    }

    /// The value of [`VARIABLE`].
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("texts, paths made of texts and flags are JSON")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_back_from_its_variable() {
        let confinement = Confinement {
            seccomp: Restriction::Require,
            gpu: true,
            model: "a \"b\".gguf".into(),
            ..Confinement::default()
        };
        assert_eq!(serde_json::from_str::<Confinement>(&confinement.to_json()).unwrap(), confinement);
    }
}
