//! Offsets of binary layouts, and a table of them: parsers read by the constants, tests go through the table.

/// Declares the constants of a layout as they stand, and `FIELDS`: name and offset of each, in their order.
///
/// ```
/// mod offset {
///     provenance::layout! {
///         /// Version, u32.
///         pub const VERSION: usize = 0;
///         /// The rest.
///         pub const BODY: usize = 4;
///     }
/// }
/// assert_eq!(offset::FIELDS, [("VERSION", 0), ("BODY", 4)]);
/// ```
#[macro_export]
macro_rules! layout {
    ($($(#[$doc:meta])* pub const $name:ident: usize = $offset:expr;)*) => {
        $($(#[$doc])* pub const $name: usize = $offset;)*

        /// Name and offset of each field, in their order.
        pub const FIELDS: &[(&str, usize)] = &[$((stringify!($name), $name)),*];
    };
}
