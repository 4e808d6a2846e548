//! Strict reading of a TOML policy: every key is asked for once, what nobody asked for is an error, and every
//! value knows its line.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::PolicyError;

/// A value and the line it stands on, counted from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed<T> {
    /// The value.
    pub value: T,
    /// Its line in the policy.
    pub line: usize,
}

/// Where a message points to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Name of the policy file as given.
    pub file: String,
    /// Line, counted from 1.
    pub line: usize,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} line {}", self.file, self.line)
    }
}

/// The text of a policy, for turning offsets into lines.
pub(super) struct Source<'a> {
    pub(super) file: &'a str,
    pub(super) text: &'a str,
}

impl Source<'_> {
    pub(super) fn place(&self, offset: usize) -> Place {
        let before = self.text.as_bytes().get(..offset).unwrap_or(self.text.as_bytes());
        Place { file: self.file.to_owned(), line: 1 + before.iter().filter(|byte| **byte == b'\n').count() }
    }
}

/// A table whose keys are taken one by one.
pub(super) struct Section<'a> {
    source: &'a Source<'a>,
    path: String,
    place: Place,
    entries: BTreeMap<&'a str, (usize, &'a Spanned<DeValue<'a>>)>,
}

/// A value with its path and place.
pub(super) struct Field<'a> {
    source: &'a Source<'a>,
    pub(super) path: String,
    pub(super) place: Place,
    value: &'a DeValue<'a>,
}

impl<'a> Section<'a> {
    pub(super) fn new(source: &'a Source<'a>, path: String, place: Place, table: &'a DeTable<'a>) -> Self {
        let entries =
            table.iter().map(|(key, value)| (key.get_ref().as_ref(), (key.span().start, value))).collect();
        Self { source, path, place, entries }
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The value of a key that may be left out.
    pub(super) fn optional(&mut self, key: &str) -> Option<Field<'a>> {
        let (offset, value) = self.entries.remove(key)?;
        Some(Field {
            source: self.source,
            path: self.path_of(key),
            place: self.source.place(offset),
            value: value.get_ref(),
        })
    }

    /// The value of a key that must be there.
    pub(super) fn required(&mut self, key: &str) -> Result<Field<'a>, PolicyError> {
        self.optional(key)
            .ok_or_else(|| PolicyError::Missing { place: self.place.clone(), key: self.path_of(key) })
    }

    /// Refuses every key that was not asked for.
    pub(super) fn finish(self) -> Result<(), PolicyError> {
        match self.entries.iter().min_by_key(|(_, (offset, _))| *offset) {
            None => Ok(()),
            Some((key, (offset, _))) => {
                Err(PolicyError::UnknownKey { place: self.source.place(*offset), key: self.path_of(key) })
            }
        }
    }
}

impl<'a> Field<'a> {
    pub(super) fn error(&self, problem: impl Into<String>) -> PolicyError {
        PolicyError::Value { place: self.place.clone(), key: self.path.clone(), problem: problem.into() }
    }

    fn wrong_type(&self, wanted: &'static str) -> PolicyError {
        PolicyError::Type {
            place: self.place.clone(),
            key: self.path.clone(),
            wanted,
            got: self.value.type_str(),
        }
    }

    pub(super) fn placed<T>(&self, value: T) -> Placed<T> {
        Placed { value, line: self.place.line }
    }

    pub(super) fn text(&self) -> Result<&'a str, PolicyError> {
        self.value.as_str().ok_or_else(|| self.wrong_type("a string"))
    }

    pub(super) fn boolean(&self) -> Result<bool, PolicyError> {
        self.value.as_bool().ok_or_else(|| self.wrong_type("true or false"))
    }

    /// A whole number from 0 to `max`.
    pub(super) fn number(&self, max: u64) -> Result<u64, PolicyError> {
        let digits = self.value.as_integer().ok_or_else(|| self.wrong_type("a whole number"))?;
        u64::from_str_radix(digits.as_str(), digits.radix())
            .ok()
            .filter(|number| *number <= max)
            .ok_or_else(|| self.error(format!("is `{}`, wanted 0 to {max}", digits.as_str())))
    }

    pub(super) fn table(&self) -> Result<Section<'a>, PolicyError> {
        let table = self.value.as_table().ok_or_else(|| self.wrong_type("a table"))?;
        Ok(Section::new(self.source, self.path.clone(), self.place.clone(), table))
    }

    pub(super) fn array(&self) -> Result<Vec<Field<'a>>, PolicyError> {
        let array = self.value.as_array().ok_or_else(|| self.wrong_type("an array"))?;
        Ok(array
            .iter()
            .enumerate()
            .map(|(index, value)| Field {
                source: self.source,
                path: format!("{}[{index}]", self.path),
                place: self.source.place(value.span().start),
                value: value.get_ref(),
            })
            .collect())
    }

    /// An array of at least one value, each parsed from its text.
    pub(super) fn parsed_list<T>(
        &self,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Vec<Placed<T>>, PolicyError> {
        let items = self.array()?;
        if items.is_empty() {
            return Err(self.error("is empty; at least one value is needed"));
        }
        items.iter().map(|item| item.parsed(&parse).map(|value| item.placed(value))).collect()
    }

    /// A value parsed from its text.
    pub(super) fn parsed<T>(&self, parse: impl Fn(&str) -> Result<T, String>) -> Result<T, PolicyError> {
        parse(self.text()?).map_err(|problem| self.error(problem))
    }
}
