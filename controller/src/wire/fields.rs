//! Messages and domain types of the same name that have the same fields: one
//! list of these is enough for both directions.
//!
//! A field is moved as it is, unless the module that converts it stands behind
//! its name: [`each`], [`optional`], [`super::number`], or another one with a
//! `read` and a `write`.

/// A domain type from its message.
macro_rules! from_message {
    ($name:ident { $($field:ident $(: $how:ident)?),+ $(,)? }) => {
        impl From<v1::$name> for $name {
            fn from(message: v1::$name) -> Self {
                let v1::$name { $($field),+ } = message;
                Self { $($field: field!(read $field $($how)?)),+ }
            }
        }
    };
}

/// A message from its domain type.
macro_rules! to_message {
    ($name:ident { $($field:ident $(: $how:ident)?),+ $(,)? }) => {
        impl From<$name> for v1::$name {
            fn from(value: $name) -> Self {
                let $name { $($field),+ } = value;
                Self { $($field: field!(write $field $($how)?)),+ }
            }
        }
    };
}

/// Both of them.
macro_rules! both_ways {
    ($name:ident { $($fields:tt)+ }) => {
        from_message!($name { $($fields)+ });
        to_message!($name { $($fields)+ });
    };
}

macro_rules! field {
    ($way:ident $field:ident) => {
        $field
    };
    ($way:ident $field:ident $how:ident) => {
        $how::$way($field)
    };
}

/// Fields that hold many: lists and maps.
pub(super) mod each {
    pub(in crate::wire) fn read<A, B: From<A>, C: FromIterator<B>>(items: impl IntoIterator<Item = A>) -> C {
        items.into_iter().map(B::from).collect()
    }

    pub(in crate::wire) use read as write;
}

/// Fields that may be absent.
pub(super) mod optional {
    pub(in crate::wire) fn read<A, B: From<A>>(field: Option<A>) -> Option<B> {
        field.map(B::from)
    }

    pub(in crate::wire) use read as write;
}
