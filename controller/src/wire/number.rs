//! Enums: a message has the number of a word.

/// A domain value that a message has as a number.
pub(super) trait Number: Default {
    /// `None`: this version does not know the number.
    fn known(number: i32) -> Option<Self>;

    fn number(self) -> i32;
}

/// What this version does not know is as if it were not said.
pub(super) fn read<T: Number>(number: i32) -> T {
    T::known(number).unwrap_or_default()
}

pub(super) fn write<T: Number>(value: T) -> i32 {
    value.number()
}

/// An enum whose words are the same on the wire, besides "unspecified", which
/// is `None`.
macro_rules! same_words {
    ($message:ident, $name:ident { $($word:ident),+ $(,)? }) => {
        impl From<$name> for v1::$message {
            fn from(word: $name) -> Self {
                match word {
                    $($name::$word => Self::$word),+
                }
            }
        }

        impl $crate::wire::number::Number for Option<$name> {
            fn known(number: i32) -> Option<Self> {
                Some(match v1::$message::try_from(number).ok()? {
                    v1::$message::Unspecified => None,
                    $(v1::$message::$word => Some($name::$word)),+
                })
            }

            fn number(self) -> i32 {
                self.map_or(v1::$message::Unspecified, v1::$message::from).into()
            }
        }
    };
}
