//! Registries of formats: an enum, its names and its specifications from one list of files.

/// Marks of a format in the source of chat templates.
#[derive(Clone, Copy, Debug)]
pub(super) struct TemplateMarks {
    /// Rank among the formats whose marks a template has: the highest one wins, so more specific marks rank higher.
    pub priority: u8,
    /// Alternatives, each a list of texts that all occur in the template.
    pub any_of: &'static [&'static [&'static str]],
}

impl TemplateMarks {
    pub(super) fn are_in(&self, template: &str) -> bool {
        self.any_of.iter().any(|all| all.iter().all(|mark| template.contains(mark)))
    }
}

/// Declares the modules of formats and the enum over them. Each module has a constant `FORMAT` of type `$spec`.
macro_rules! registry {
    ($(#[$meta:meta])* $type:ident of $spec:ty { $($variant:ident = $module:ident,)+ }) => {
        $(mod $module;)+

        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $type {
            $(
                #[doc = concat!("See the module `", stringify!($module), "`.")]
                $variant,
            )+
        }

        impl $type {
            /// All formats.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Their names, in the same order.
            pub const NAMES: &'static [&'static str] = &[$($module::FORMAT.name),+];

            /// `none` and their names, for settings that can also switch off.
            pub const NAMES_OR_NONE: &'static [&'static str] = &["none", $($module::FORMAT.name),+];

            /// Returns the name that the configuration and the worker protocol use.
            #[must_use]
            pub const fn name(self) -> &'static str {
                self.spec().name
            }

            /// Returns the format of this name.
            #[must_use]
            pub fn by_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|format| format.name() == name)
            }

            /// Returns the format whose marks a chat template has.
            pub(in crate::output_formats) fn detect(template: &str) -> Option<Self> {
                let found = Self::ALL.iter().copied().filter(|format| format.spec().template.are_in(template));
                found.max_by_key(|format| format.spec().template.priority)
            }

            pub(in crate::output_formats) const fn spec(self) -> &'static $spec {
                match self {
                    $(Self::$variant => &$module::FORMAT,)+
                }
            }
        }
    };
}

pub(super) use registry;
