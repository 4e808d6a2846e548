//! The regular expressions that Docker's patterns are defined by: the few constructs that the translation in
//! [`super::pattern`] can give, with the meaning of Go's `regexp` package (RE2 syntax).
//!
//! Text is a sequence of code points; a byte that is not UTF-8 counts as U+FFFD, as in Go.

use super::pattern::PatternFault;

/// One step of a compiled expression.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// One code point of the set.
    One(Set),
    /// Go on at both places.
    Split(usize, usize),
    /// Something about the place between two code points.
    Assert(Assertion),
    /// The expression has matched.
    Match,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Assertion {
    Start,
    End,
    WordBoundary,
    NoWordBoundary,
}

/// A set of code points.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Set {
    ranges: Vec<(u32, u32)>,
    negated: bool,
}

impl Set {
    fn of(code: u32) -> Self {
        Self { ranges: vec![(code, code)], negated: false }
    }

    fn contains(&self, code: u32) -> bool {
        self.ranges.iter().any(|(low, high)| (*low..=*high).contains(&code)) != self.negated
    }

    fn add_negated(&mut self, ranges: &[(u32, u32)]) {
        let mut sorted = ranges.to_vec();
        sorted.sort_unstable();
        let mut next = 0;
        for (low, high) in sorted {
            if next < low {
                self.ranges.push((next, low - 1));
            }
            next = high + 1;
        }
        self.ranges.push((next, 0x10_ffff));
    }
}

const DIGIT: &[(u32, u32)] = &[(0x30, 0x39)];
const SPACE: &[(u32, u32)] = &[(0x09, 0x0a), (0x0c, 0x0d), (0x20, 0x20)];
const WORD: &[(u32, u32)] = &[(0x30, 0x39), (0x41, 0x5a), (0x5f, 0x5f), (0x61, 0x7a)];

fn is_word(code: Option<&u32>) -> bool {
    code.is_some_and(|code| WORD.iter().any(|(low, high)| (*low..=*high).contains(code)))
}

/// The class behind `\d`, `\S` and so on: its ranges, and whether it is negated.
fn perl_class(code: u32) -> Option<(&'static [(u32, u32)], bool)> {
    match char::from_u32(code)? {
        'd' => Some((DIGIT, false)),
        'D' => Some((DIGIT, true)),
        's' => Some((SPACE, false)),
        'S' => Some((SPACE, true)),
        'w' => Some((WORD, false)),
        'W' => Some((WORD, true)),
        _ => None,
    }
}

fn named_class(name: &str) -> Option<&'static [(u32, u32)]> {
    Some(match name {
        "alnum" => &[(0x30, 0x39), (0x41, 0x5a), (0x61, 0x7a)],
        "alpha" => &[(0x41, 0x5a), (0x61, 0x7a)],
        "ascii" => &[(0, 0x7f)],
        "blank" => &[(0x09, 0x09), (0x20, 0x20)],
        "cntrl" => &[(0, 0x1f), (0x7f, 0x7f)],
        "digit" => DIGIT,
        "graph" => &[(0x21, 0x7e)],
        "lower" => &[(0x61, 0x7a)],
        "print" => &[(0x20, 0x7e)],
        "punct" => &[(0x21, 0x2f), (0x3a, 0x40), (0x5b, 0x60), (0x7b, 0x7e)],
        "space" => &[(0x09, 0x0d), (0x20, 0x20)],
        "upper" => &[(0x41, 0x5a)],
        "word" => WORD,
        "xdigit" => &[(0x30, 0x39), (0x41, 0x46), (0x61, 0x66)],
        _ => return None,
    })
}

/// A compiled expression that must match the whole text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Regex(Vec<Step>);

struct Parser<'a> {
    text: &'a [u32],
    at: usize,
    steps: Vec<Step>,
}

const fn code(c: char) -> u32 {
    c as u32
}

impl Regex {
    /// Compiles. `text` is an expression without its anchors.
    pub(super) fn compile(text: &[u32]) -> Result<Self, PatternFault> {
        let mut parser = Parser { text, at: 0, steps: Vec::new() };
        while let Some(next) = parser.peek() {
            parser.item(next)?;
        }
        parser.steps.push(Step::Match);
        Ok(Self(parser.steps))
    }

    /// Whether the whole of `text` matches. Time is at most the product of both lengths.
    pub(super) fn matches(&self, text: &[u32]) -> bool {
        let mut now = vec![false; self.0.len()];
        let mut next = vec![false; self.0.len()];
        let mut open = Vec::new();
        self.reach(0, text, 0, &mut now, &mut open);
        for (at, code) in text.iter().enumerate() {
            next.fill(false);
            let mut any = false;
            for (index, step) in self.0.iter().enumerate() {
                if let (true, Step::One(set)) = (now[index], step)
                    && set.contains(*code)
                {
                    any = true;
                    self.reach(index + 1, text, at + 1, &mut next, &mut open);
                }
            }
            if !any {
                return false;
            }
            std::mem::swap(&mut now, &mut next);
        }
        now[self.0.len() - 1]
    }

    /// Marks every step that can be reached from `index` without a code point. `open` is empty room for steps that are
    /// still to be looked at: they may be as many as the expression has, too many for recursion.
    fn reach(&self, index: usize, text: &[u32], at: usize, marked: &mut [bool], open: &mut Vec<usize>) {
        open.push(index);
        while let Some(index) = open.pop() {
            if std::mem::replace(&mut marked[index], true) {
                continue;
            }
            match &self.0[index] {
                Step::One(_) | Step::Match => {}
                Step::Split(first, second) => open.extend([*first, *second]),
                Step::Assert(assertion) => {
                    let boundary =
                        || is_word(at.checked_sub(1).and_then(|at| text.get(at))) != is_word(text.get(at));
                    let holds = match assertion {
                        Assertion::Start => at == 0,
                        Assertion::End => at == text.len(),
                        Assertion::WordBoundary => boundary(),
                        Assertion::NoWordBoundary => !boundary(),
                    };
                    if holds {
                        open.push(index + 1);
                    }
                }
            }
        }
    }
}

impl Parser<'_> {
    fn peek(&self) -> Option<u32> {
        self.text.get(self.at).copied()
    }

    fn take(&mut self) -> Result<u32, PatternFault> {
        let code = self.peek().ok_or(PatternFault::Syntax)?;
        self.at += 1;
        Ok(code)
    }

    fn rest_is(&self, wanted: &str) -> bool {
        wanted.chars().enumerate().all(|(i, c)| self.text.get(self.at + i) == Some(&code(c)))
    }

    fn item(&mut self, next: u32) -> Result<(), PatternFault> {
        // The only group of the translation.
        if self.rest_is("(.*/)?") {
            self.at += 6;
            let start = self.steps.len();
            self.steps.push(Step::Split(start + 1, start + 5));
            self.star(Set { ranges: vec![(0x0a, 0x0a)], negated: true });
            self.steps.push(Step::One(Set::of(code('/'))));
            debug_assert_eq!(self.steps.len(), start + 5);
            return Ok(());
        }
        self.at += 1;
        let set = match char::from_u32(next) {
            Some('^') => {
                self.steps.push(Step::Assert(Assertion::Start));
                return Ok(());
            }
            Some('.') => Set { ranges: vec![(0x0a, 0x0a)], negated: true },
            Some('[') => self.class()?,
            Some('\\') => match self.escape()? {
                Some(set) => set,
                None => return Ok(()),
            },
            Some('*' | '?' | '+' | '(' | ')' | '|' | '{' | '$') => return Err(PatternFault::Syntax),
            _ => Set::of(next),
        };
        match self.peek() {
            Some(star) if star == code('*') => {
                self.at += 1;
                self.star(set);
            }
            _ => self.steps.push(Step::One(set)),
        }
        Ok(())
    }

    /// Three steps: any number of code points of the set.
    fn star(&mut self, set: Set) {
        let start = self.steps.len();
        self.steps.push(Step::Split(start + 1, start + 3));
        self.steps.push(Step::One(set));
        self.steps.push(Step::Split(start, start + 3));
    }

    /// After `\` outside a class; `None` for what takes no code point or was pushed already.
    fn escape(&mut self) -> Result<Option<Set>, PatternFault> {
        let next = self.peek().ok_or(PatternFault::Syntax)?;
        let assertion = match char::from_u32(next) {
            Some('A') => Some(Assertion::Start),
            Some('z') => Some(Assertion::End),
            Some('b') => Some(Assertion::WordBoundary),
            Some('B') => Some(Assertion::NoWordBoundary),
            _ => None,
        };
        if let Some(assertion) = assertion {
            self.at += 1;
            self.steps.push(Step::Assert(assertion));
            return Ok(None);
        }
        if next == code('Q') {
            self.at += 1;
            while self.at < self.text.len() && !self.rest_is("\\E") {
                let literal = self.take()?;
                self.steps.push(Step::One(Set::of(literal)));
            }
            self.at = (self.at + 2).min(self.text.len());
            return Ok(None);
        }
        if let Some((ranges, negated)) = perl_class(next) {
            self.at += 1;
            return Ok(Some(Set { ranges: ranges.to_vec(), negated }));
        }
        self.literal_escape().map(|code| Some(Set::of(code)))
    }

    /// After `\`: one code point.
    fn literal_escape(&mut self) -> Result<u32, PatternFault> {
        let next = self.take()?;
        let octal = |code: Option<u32>| code.filter(|c| (0x30..=0x37).contains(c)).map(|c| c - 0x30);
        Ok(match char::from_u32(next).ok_or(PatternFault::Syntax)? {
            // A single digit other than 0 would be a reference to a group; there are none in RE2.
            '1'..='7' if octal(self.peek()).is_none() => return Err(PatternFault::Syntax),
            '0'..='7' => {
                let mut value = next - 0x30;
                for _ in 0..2 {
                    let Some(digit) = octal(self.peek()) else { break };
                    self.at += 1;
                    value = value * 8 + digit;
                }
                value
            }
            'x' => self.hexadecimal()?,
            'a' => 7,
            'f' => 12,
            'n' => 10,
            'r' => 13,
            't' => 9,
            'v' => 11,
            c if c.is_ascii() && !c.is_ascii_alphanumeric() => next,
            // `\p{…}` lands here too: Unicode's tables are not carried for a pattern nobody writes.
            _ => return Err(PatternFault::Syntax),
        })
    }

    /// Two digits. There is no `\x{…}`: the translation puts a backslash before each brace.
    fn hexadecimal(&mut self) -> Result<u32, PatternFault> {
        let digit = |c: u32| char::from_u32(c).and_then(|c| c.to_digit(16)).ok_or(PatternFault::Syntax);
        Ok(digit(self.take()?)? * 16 + digit(self.take()?)?)
    }

    /// After `[`.
    fn class(&mut self) -> Result<Set, PatternFault> {
        let mut set = Set::default();
        if self.peek() == Some(code('^')) {
            self.at += 1;
            set.negated = true;
        }
        let mut first = true;
        loop {
            let next = self.peek().ok_or(PatternFault::Syntax)?;
            if next == code(']') && !first {
                self.at += 1;
                return Ok(set);
            }
            first = false;
            if self.rest_is("[:") && self.named(&mut set)? {
                continue;
            }
            if next == code('\\')
                && let Some((ranges, negated)) = self.text.get(self.at + 1).and_then(|c| perl_class(*c))
            {
                self.at += 2;
                if negated {
                    set.add_negated(ranges)
                } else {
                    set.ranges.extend_from_slice(ranges)
                }
                continue;
            }
            let low = self.class_code()?;
            let range =
                self.peek() == Some(code('-')) && self.text.get(self.at + 1).is_some_and(|c| *c != code(']'));
            let high = if range {
                self.at += 1;
                self.class_code()?
            } else {
                low
            };
            if high < low {
                return Err(PatternFault::Syntax);
            }
            set.ranges.push((low, high));
        }
    }

    fn class_code(&mut self) -> Result<u32, PatternFault> {
        match self.take()? {
            backslash if backslash == code('\\') => self.literal_escape(),
            other => Ok(other),
        }
    }

    /// `[:name:]` inside a class; false when there is no `:]` behind.
    fn named(&mut self, set: &mut Set) -> Result<bool, PatternFault> {
        let rest = &self.text[self.at + 2..];
        let Some(length) = rest.windows(2).position(|pair| pair == [code(':'), code(']')]) else {
            return Ok(false);
        };
        let name: String = rest[..length].iter().filter_map(|c| char::from_u32(*c)).collect();
        let (name, negated) = name.strip_prefix('^').map_or((&*name, false), |name| (name, true));
        let ranges = named_class(name).ok_or(PatternFault::Syntax)?;
        if negated {
            set.add_negated(ranges)
        } else {
            set.ranges.extend_from_slice(ranges)
        }
        self.at += length + 4;
        Ok(true)
    }
}
