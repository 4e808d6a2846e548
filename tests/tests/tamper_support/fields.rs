//! The fields of a part, found by its form, and each changed alone or taken from another good part.

use std::ops::Range;

use serde_json::Value;

/// How the bytes of a part are made up.
pub(crate) enum Form {
    /// Fields at fixed places, one after the other without a gap.
    Layout(Vec<(String, Range<usize>)>),
    /// JSON; canonical documents are written canonically again.
    Json,
    /// DER: each primitive value, also inside of OCTET STRINGs and BIT STRINGs.
    Der,
}

/// What is done to a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Operation {
    /// Another value of the same kind.
    Change,
    /// The value of another good bundle.
    Swap,
    /// A JSON member taken away, a part without its last byte.
    Remove,
    /// A JSON member or a byte added.
    Add,
}

impl Operation {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Change => "change",
            Self::Swap => "swap",
            Self::Remove => "remove",
            Self::Add => "add",
        }
    }
}

/// A part with one thing altered.
pub(crate) struct Alteration {
    pub(crate) field: String,
    pub(crate) operation: Operation,
    pub(crate) bytes: Vec<u8>,
}

/// Every alteration of `bytes`; `other` is the same part of another good bundle.
pub(crate) fn alterations(form: &Form, bytes: &[u8], other: &[u8]) -> Vec<Alteration> {
    let mut found = match form {
        Form::Layout(fields) => of_layout(fields, bytes, other),
        Form::Json => of_json(bytes, other),
        Form::Der => of_der(bytes, other),
    };
    let mut whole = |operation, bytes: Vec<u8>| {
        found.push(Alteration { field: "(whole)".to_owned(), operation, bytes });
    };
    whole(Operation::Remove, bytes[..bytes.len() - 1].to_vec());
    whole(Operation::Add, [bytes, b"\x01"].concat());
    if bytes != other {
        whole(Operation::Swap, other.to_vec());
    }
    found
}

fn of_layout(fields: &[(String, Range<usize>)], bytes: &[u8], other: &[u8]) -> Vec<Alteration> {
    let mut found = Vec::new();
    let mut next = 0;
    for (name, range) in fields {
        assert!(range.start == next && !range.is_empty(), "{name} leaves a gap or overlaps");
        next = range.end;
        let mut put = |operation, value: &[u8]| {
            let mut altered = bytes.to_vec();
            altered[range.clone()].copy_from_slice(value);
            found.push(Alteration { field: name.clone(), operation, bytes: altered });
        };
        let mut changed = bytes[range.clone()].to_vec();
        *changed.last_mut().expect("not empty") ^= 1;
        put(Operation::Change, &changed);
        if let Some(theirs) = other.get(range.clone())
            && *theirs != bytes[range.clone()]
        {
            put(Operation::Swap, theirs);
        }
    }
    assert_eq!(next, bytes.len(), "the layout covers every byte");
    found
}

/// Paths (RFC 6901) of all values, the root first.
fn paths(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        Value::Object(members) => {
            for (key, member) in members {
                paths(member, &format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")), found);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                paths(item, &format!("{at}/{index}"), found);
            }
        }
        _ => {}
    }
}

/// Another value of the same type.
fn changed(value: &Value) -> Option<Value> {
    Some(match value {
        Value::Null => Value::from(0),
        Value::Bool(bool) => Value::from(!bool),
        Value::Number(number) => Value::from(number.as_u64().expect("numbers are natural") + 1),
        Value::String(text) => {
            // In the middle: the end of base64 and of URLs is a case of its own.
            let at = text.len() / 2;
            let mut bytes = text.clone().into_bytes();
            match bytes.get_mut(at) {
                None => bytes.push(b'x'),
                Some(byte @ (b'0'..=b'8' | b'A'..=b'Y' | b'a'..=b'e' | b'g'..=b'y')) => *byte += 1,
                Some(byte) => *byte = b'1',
            }
            Value::from(String::from_utf8(bytes).expect("ASCII"))
        }
        Value::Array(items) if items.is_empty() => Value::from(vec![Value::Null]),
        Value::Array(_) | Value::Object(_) => return None,
    })
}

fn of_json(bytes: &[u8], other: &[u8]) -> Vec<Alteration> {
    let document: Value = serde_json::from_slice(bytes).expect("JSON");
    let theirs: Value = serde_json::from_slice(other).expect("JSON");
    let mut all = Vec::new();
    paths(&document, "", &mut all);
    let mut found = Vec::new();
    let mut put = |field: &str, operation, document: &Value| {
        let bytes = document.to_string().into_bytes();
        found.push(Alteration { field: field.to_owned(), operation, bytes });
    };
    for path in &all {
        let at = |document: &Value| document.pointer(path).cloned();
        let value = at(&document).expect("walked before");
        let with = |value: Value| {
            let mut altered = document.clone();
            *altered.pointer_mut(path).expect("walked before") = value;
            altered
        };
        if let Some(value) = changed(&value) {
            put(path, Operation::Change, &with(value));
            if let Some(theirs) = at(&theirs).filter(|theirs| *theirs != at(&document).expect("walked")) {
                put(path, Operation::Swap, &with(theirs));
            }
        }
        if let Value::Object(members) = &value {
            let mut more = members.clone();
            more.insert("zzz".to_owned(), Value::from(1));
            put(&format!("{path}/zzz"), Operation::Add, &with(Value::Object(more)));
        }
        if let Value::Array(items) = &value
            && let Some(last) = items.last()
        {
            let mut more = items.clone();
            more.push(last.clone());
            put(&format!("{path}/{}", items.len()), Operation::Add, &with(Value::Array(more)));
        }
        if let Some((parent, last)) = path.rsplit_once('/') {
            let mut altered = document.clone();
            match altered.pointer_mut(parent).expect("walked before") {
                Value::Object(members) => {
                    members.remove(&last.replace("~1", "/").replace("~0", "~"));
                }
                Value::Array(items) => {
                    items.remove(last.parse::<usize>().expect("an index"));
                }
                _ => unreachable!("a parent has children"),
            }
            put(path, Operation::Remove, &altered);
        }
    }
    found
}

/// A value in DER.
#[derive(Clone)]
enum Node {
    Primitive {
        tag: u8,
        contents: Vec<u8>,
    },
    /// With what stands before the children: nothing, or the count of unused bits.
    Constructed {
        tag: u8,
        before: Vec<u8>,
        children: Vec<Node>,
    },
}

/// The value at the beginning, and what follows it.
fn read(bytes: &[u8]) -> Option<(Node, &[u8])> {
    let (&[tag, first], rest) = bytes.split_first_chunk::<2>()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
        let length = digits
            .iter()
            .try_fold(0_usize, |all, digit| all.checked_mul(256).map(|all| all + usize::from(*digit)))?;
        (length, rest)
    };
    let (contents, rest) = rest.split_at_checked(length)?;
    let (before, inner) = match (tag, contents) {
        // Points of P-256 and P-384 (SEC 1: 04, x, y), whose x may begin like a length.
        (0x03, [0, 0x04, point @ ..]) if matches!(point.len(), 64 | 96) => (vec![0], None),
        (0x03, [0, inner @ ..]) => (vec![0], Some(inner)),
        // Hashes and ids of these lengths are random bytes, which may look like anything.
        (0x04, inner) => (vec![], (!matches!(inner.len(), 20 | 64)).then_some(inner)),
        _ => (vec![], (tag & 0x20 != 0).then_some(contents)),
    };
    let is_string = matches!(tag, 0x03 | 0x04);
    let children = inner.and_then(|inner| read_all(inner, is_string));
    let node = match children {
        Some(children) => Node::Constructed { tag, before, children },
        None => Node::Primitive { tag, contents: contents.to_vec() },
    };
    Some((node, rest))
}

/// Values that fill the bytes. Inside of a string it must be a single SEQUENCE or a known primitive, or any bytes would do.
fn read_all(mut bytes: &[u8], in_string: bool) -> Option<Vec<Node>> {
    let whole = bytes;
    let mut children = Vec::new();
    while !bytes.is_empty() {
        let (node, rest) = read(bytes)?;
        children.push(node);
        bytes = rest;
    }
    let sure = !in_string
        || (children.len() == 1 && matches!(whole[0], 0x30 | 0x02 | 0x03 | 0x04 | 0x16) && whole.len() > 1);
    sure.then_some(children)
}

fn write(node: &Node) -> Vec<u8> {
    let (tag, contents) = match node {
        Node::Primitive { tag, contents } => (*tag, contents.clone()),
        Node::Constructed { tag, before, children } => {
            (*tag, [before.clone(), children.iter().flat_map(write).collect()].concat())
        }
    };
    let mut out = vec![tag];
    let length = contents.len();
    if length < 0x80 {
        out.push(u8::try_from(length).expect("short"));
    } else {
        let digits = length.to_be_bytes();
        let digits = &digits[digits.iter().position(|digit| *digit != 0).expect("not zero")..];
        out.push(0x80 | u8::try_from(digits.len()).expect("at most eight"));
        out.extend(digits);
    }
    out.extend(contents);
    out
}

impl Node {
    fn paths(&self, at: &[usize], found: &mut Vec<Vec<usize>>) {
        match self {
            Self::Primitive { .. } => found.push(at.to_vec()),
            Self::Constructed { children, .. } => {
                for (index, child) in children.iter().enumerate() {
                    child.paths(&[at, &[index]].concat(), found);
                }
            }
        }
    }

    fn at(&mut self, path: &[usize]) -> Option<&mut Vec<u8>> {
        match (self, path) {
            (Self::Primitive { contents, .. }, []) => Some(contents),
            (Self::Constructed { children, .. }, [first, rest @ ..]) => children.get_mut(*first)?.at(rest),
            _ => None,
        }
    }
}

fn of_der(bytes: &[u8], other: &[u8]) -> Vec<Alteration> {
    let whole = |bytes| read(bytes).filter(|(_, rest)| rest.is_empty()).expect("DER").0;
    let (node, mut theirs) = (whole(bytes), whole(other));
    assert!(write(&node) == bytes, "DER is written as it stood there");
    let mut all = Vec::new();
    node.paths(&[], &mut all);
    let mut found = Vec::new();
    for path in all {
        let field: Vec<String> = path.iter().map(usize::to_string).collect();
        let field = format!("/{}", field.join("/"));
        let mut put = |operation, contents: Vec<u8>| {
            let mut altered = node.clone();
            *altered.at(&path).expect("walked before") = contents;
            found.push(Alteration { field: field.clone(), operation, bytes: write(&altered) });
        };
        let contents = node.clone().at(&path).expect("walked before").clone();
        let mut changed = contents.clone();
        match changed.last_mut() {
            Some(last) => *last ^= 1,
            None => changed.push(0),
        }
        put(Operation::Change, changed);
        if let Some(theirs) = theirs.at(&path).filter(|theirs| **theirs != contents) {
            put(Operation::Swap, theirs.clone());
        }
    }
    found
}
