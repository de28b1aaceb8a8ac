//! How one definition of a key becomes the field that reads it, its default and its line in the
//! reference page.

/// What holds when the key is not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Given {
    /// The file is refused without it.
    Required,
    /// This value, in the form in which it would be written.
    Default(&'static str),
    /// This behaviour.
    Otherwise(&'static str),
}

/// One key of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Its name inside its section.
    pub name: &'static str,
    /// Its type, for a person.
    pub kind: &'static str,
    /// What holds without it.
    pub given: Given,
    /// First version that knows it.
    pub since: &'static str,
    /// What it means, line by line.
    pub meaning: &'static [&'static str],
}

/// One mapping of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Section {
    /// Its dotted path; empty for the file itself.
    pub path: &'static str,
    /// What it is about, line by line.
    pub meaning: &'static [&'static str],
    /// Its keys in the order of the reference page.
    pub keys: &'static [Key],
}

impl Key {
    /// The meaning as one paragraph.
    #[must_use]
    pub fn text(&self) -> String {
        paragraph(self.meaning)
    }
}

impl Section {
    /// The meaning as one paragraph.
    #[must_use]
    pub fn text(&self) -> String {
        paragraph(self.meaning)
    }

    /// The key of that name.
    #[must_use]
    pub fn key(&self, name: &str) -> Option<&Key> {
        self.keys.iter().find(|k| k.name == name)
    }
}

fn paragraph(lines: &[&str]) -> String {
    lines.iter().map(|l| l.trim()).collect::<Vec<_>>().join(" ")
}

/// Defines a mapping of the file: the struct that reads it (every field optional, unknown keys
/// refused) and its [`Section`].
macro_rules! section {
    (
        $(#[doc = $about:literal])+
        $name:ident at $path:literal {
            $(
                $(#[doc = $meaning:literal])+
                $field:ident ($key:literal): $type:ty, $kind:literal,
                $given:ident $($value:literal)?, since $since:literal;
            )+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(serde::Deserialize, Default)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            $(
                $(#[doc = $meaning])+
                #[serde(rename = $key)]
                pub $field: Option<$type>,
            )+
        }

        impl $name {
            /// The definition of this mapping.
            pub const SECTION: $crate::config::keys::Section = $crate::config::keys::Section {
                path: $path,
                meaning: &[$($about),+],
                keys: &[
                    $(
                        $crate::config::keys::Key {
                            name: $key,
                            kind: $kind,
                            given: $crate::config::keys::section!(@given $given $($value)?),
                            since: $since,
                            meaning: &[$($meaning),+],
                        },
                    )+
                ],
            };
        }
    };
    (@given required) => { $crate::config::keys::Given::Required };
    (@given default $value:literal) => { $crate::config::keys::Given::Default($value) };
    (@given otherwise $value:literal) => { $crate::config::keys::Given::Otherwise($value) };
}

pub(crate) use section;
