//! Enumerations: values that are one of a few words.

/// A text that is none of the words of an enumeration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is none of {}", words.join(", "))]
pub struct UnknownWord {
    pub text: String,
    pub words: &'static [&'static str],
}

/// Makes enumerations of variants with their words. The first variant is the default one, which means nothing but that
/// structures with such a member can be made member by member.
macro_rules! words {
    ($name:ident { $first:ident = $first_word:literal $(, $variant:ident = $word:literal)* }) => {
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            #[default]
            $first,
            $($variant,)*
        }

        impl $name {
            pub const WORDS: &'static [&'static str] = &[$first_word $(, $word)*];

            pub const fn as_str(self) -> &'static str {
                match self {
                    Self::$first => $first_word,
                    $(Self::$variant => $word,)*
                }
            }

            fn of(text: &str) -> Option<Self> {
                match text {
                    $first_word => Some(Self::$first),
                    $($word => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }

        impl ::std::str::FromStr for $name {
            type Err = $crate::words::UnknownWord;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::of(text).ok_or_else(|| $crate::words::UnknownWord { text: text.to_owned(), words: Self::WORDS })
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl $crate::encode::Encode for $name {
            fn put(&self, encoder: &mut dyn $crate::encode::Encoder, member: &$crate::member::Member) {
                encoder.word(member, self.as_str());
            }
        }

        impl $crate::decode::Decode for $name {
            fn decode(
                node: &$crate::node::Node<'_>,
                _: &'static $crate::member::Member,
                _: $crate::decode::Wire,
            ) -> Result<Self, $crate::malformed::Malformed> {
                let text = $crate::decode::text(node)?;
                Self::of(text).ok_or_else(|| {
                    $crate::malformed::Malformed::new($crate::malformed::Problem::NotOneOf(Self::WORDS), text)
                })
            }
        }
    };
}

pub(crate) use words;
