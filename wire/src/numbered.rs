//! Enumerations whose numbers are part of the format and whose names are those of the documentation.

macro_rules! numbered {
    ($(#[$doc:meta])* $name:ident { $($(#[$value_doc:meta])* $value:ident = $number:literal, $label:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum $name {
            $($(#[$value_doc])* $value = $number,)*
        }

        impl $name {
            /// Every one, by number.
            pub const ALL: &[$name] = &[$($name::$value,)*];

            /// As the documentation and the command line write it.
            pub fn name(self) -> &'static str {
                match self {
                    $($name::$value => $label,)*
                }
            }

            /// The one with this number.
            pub fn from_u8(byte: u8) -> Option<$name> {
                $name::ALL.iter().copied().find(|value| *value as u8 == byte)
            }
        }
    };
}

pub(crate) use numbered;
