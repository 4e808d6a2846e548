//! Source text in which every mutant is there, each behind `switch::on(its number)`.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use anyhow::{Context as _, Result};
use syn::spanned::Spanned as _;
use syn::visit::Visit;
use syn::{Arm, BinOp, Expr, ExprBinary, ExprUnary, Pat};

use crate::listed::{Genre, Mutant, Place, Span};

/// A rewritten file.
pub struct Rewritten {
    /// Its text.
    pub text: String,
    /// Where which mutant's code is, in bytes of that text.
    pub places: Vec<(Range<usize>, usize)>,
    /// Numbers of the mutants that are in it.
    pub contained: HashSet<usize>,
    /// Numbers of those that no compiler takes: `||` beside a `let`.
    pub no_syntax: HashSet<usize>,
}

/// How a piece of source is put together again.
enum Shape {
    /// A value in front of everything, for the mutants of a whole function.
    Body,
    /// `left op right`.
    Binary { left: Range<usize>, right: Range<usize>, operator: String, kind: Kind },
    /// `op value`.
    Unary { value: Range<usize> },
    /// A guard after the pattern, with the guard that is there.
    Guard { guard: Option<Range<usize>> },
    /// `const` in front of a function with mutants, which goes away: the switch is not const.
    Const,
}

/// Kinds of binary operators.
#[derive(PartialEq)]
enum Kind {
    Comparison,
    Lazy,
    Arithmetic,
    Assignment,
}

/// The number of a mutant and what stands in its place; `None` where that follows from its kind.
type Choice = (usize, Option<String>);

struct Edit {
    range: Range<usize>,
    shape: Shape,
    /// Number, and text that takes the place of the operator or body; `None` for an arm that goes away.
    mutants: Vec<Choice>,
}

/// Rewrites `source` with the given mutants, which are of this file; `switch` is the path of the function that tells
/// whether one is on, `constant` names functions that must stay `const`.
pub fn rewrite(
    source: &str,
    mutants: &[(usize, &Mutant)],
    switch: &str,
    constant: &HashSet<String>,
) -> Result<Rewritten> {
    let file = syn::parse_file(source).context("the source does not parse")?;
    let lines = Lines::new(source);
    let mut by_span: HashMap<Span, Vec<(usize, &Mutant)>> = HashMap::new();
    for (number, mutant) in mutants {
        by_span.entry(mutant.span).or_default().push((*number, mutant));
    }
    let mut finder = Finder {
        lines: &lines,
        source,
        by_span,
        constant,
        edits: Vec::new(),
        has_default: false,
        no_syntax: HashSet::new(),
    };
    finder.visit_file(&file);
    // The bodies of functions are found by their spans alone.
    let bodies: Vec<(Span, Vec<Choice>)> = finder
        .by_span
        .iter()
        .filter_map(|(span, found)| {
            let of: Vec<_> = found
                .iter()
                .filter(|(_, mutant)| mutant.genre == Genre::FnValue)
                .map(|(number, mutant)| (*number, Some(mutant.replacement.clone())))
                .collect();
            (!of.is_empty()).then_some((*span, of))
        })
        .collect();
    for (span, mutants) in bodies {
        finder.edits.push(Edit { range: lines.range(span), shape: Shape::Body, mutants });
    }
    let (mut edits, no_syntax) = (finder.edits, finder.no_syntax);
    // Outer ones first; a body before the expression of the same range.
    edits.sort_by_key(|edit| {
        (edit.range.start, std::cmp::Reverse(edit.range.end), !matches!(edit.shape, Shape::Body))
    });
    let mut writer = Writer { source, edits: &edits, switch, text: String::new(), places: Vec::new() };
    writer.write(0..source.len(), 0);
    let contained = edits.iter().flat_map(|edit| edit.mutants.iter().map(|(number, _)| *number)).collect();
    Ok(Rewritten { text: writer.text, places: writer.places, contained, no_syntax })
}

/// Byte offsets of places.
struct Lines(Vec<(usize, String)>);

impl Lines {
    fn new(source: &str) -> Self {
        let mut start = 0;
        Self(
            source
                .split_inclusive('\n')
                .map(|line| {
                    let at = start;
                    start += line.len();
                    (at, line.to_owned())
                })
                .collect(),
        )
    }

    fn offset(&self, place: Place) -> usize {
        let (start, line) = &self.0[place.line - 1];
        start + line.char_indices().nth(place.column - 1).map_or(line.len(), |(at, _)| at)
    }

    fn range(&self, span: Span) -> Range<usize> {
        self.offset(span.start)..self.offset(span.end)
    }
}

fn span_of(span: proc_macro2::Span) -> Span {
    let place = |at: proc_macro2::LineColumn| Place { line: at.line, column: at.column + 1 };
    Span { start: place(span.start()), end: place(span.end()) }
}

struct Finder<'a> {
    lines: &'a Lines,
    source: &'a str,
    by_span: HashMap<Span, Vec<(usize, &'a Mutant)>>,
    constant: &'a HashSet<String>,
    edits: Vec<Edit>,
    no_syntax: HashSet<usize>,
    /// The match that is being visited has an arm for everything else.
    has_default: bool,
}

impl Finder<'_> {
    fn of(&self, span: proc_macro2::Span, genre: Genre) -> Vec<Choice> {
        self.by_span
            .get(&span_of(span))
            .into_iter()
            .flatten()
            .filter(|(_, mutant)| mutant.genre == genre)
            .map(|(number, mutant)| (*number, Some(mutant.replacement.clone())))
            .collect()
    }

    fn range(&self, span: proc_macro2::Span) -> Range<usize> {
        self.lines.range(span_of(span))
    }
}

fn holds_let(expression: &Expr) -> bool {
    struct Let(bool);
    impl Visit<'_> for Let {
        fn visit_expr_let(&mut self, _: &syn::ExprLet) {
            self.0 = true;
        }
        fn visit_expr_block(&mut self, _: &syn::ExprBlock) {}
        fn visit_expr_if(&mut self, _: &syn::ExprIf) {}
        fn visit_expr_match(&mut self, _: &syn::ExprMatch) {}
        fn visit_expr_closure(&mut self, _: &syn::ExprClosure) {}
    }
    let mut found = Let(false);
    found.visit_expr(expression);
    found.0
}

impl<'ast> Visit<'ast> for Finder<'_> {
    fn visit_signature(&mut self, node: &'ast syn::Signature) {
        if let Some(constant) = node.constness.filter(|_| !self.constant.contains(&node.ident.to_string())) {
            let range = self.range(constant.span());
            self.edits.push(Edit { range, shape: Shape::Const, mutants: Vec::new() });
        }
        syn::visit::visit_signature(self, node);
    }

    fn visit_expr_binary(&mut self, node: &'ast ExprBinary) {
        let mutants = self.of(node.op.span(), Genre::BinaryOperator);
        let in_let_chain = holds_let(&node.left) || holds_let(&node.right);
        if in_let_chain {
            self.no_syntax.extend(mutants.iter().map(|(number, _)| *number));
        } else if !mutants.is_empty() {
            let operator = self.source[self.range(node.op.span())].to_owned();
            let kind = match node.op {
                BinOp::And(_) | BinOp::Or(_) => Kind::Lazy,
                BinOp::Eq(_) | BinOp::Ne(_) | BinOp::Lt(_) | BinOp::Le(_) | BinOp::Gt(_) | BinOp::Ge(_) => {
                    Kind::Comparison
                }
                _ if operator.ends_with('=') => Kind::Assignment,
                _ => Kind::Arithmetic,
            };
            let (left, right) = (self.range(node.left.span()), self.range(node.right.span()));
            self.edits.push(Edit {
                range: self.range(node.span()),
                shape: Shape::Binary { left, right, operator, kind },
                mutants,
            });
        }
        syn::visit::visit_expr_binary(self, node);
    }

    fn visit_expr_unary(&mut self, node: &'ast ExprUnary) {
        let mutants = self.of(node.op.span(), Genre::UnaryOperator);
        if !mutants.is_empty() {
            let value = self.range(node.expr.span());
            self.edits.push(Edit { range: self.range(node.span()), shape: Shape::Unary { value }, mutants });
        }
        syn::visit::visit_expr_unary(self, node);
    }

    fn visit_expr_match(&mut self, node: &'ast syn::ExprMatch) {
        let binds = |name: &syn::Ident| name.to_string().starts_with(char::is_lowercase);
        let default = |arm: &Arm| match &arm.pat {
            _ if arm.guard.is_some() => false,
            Pat::Ident(name) => binds(&name.ident),
            pattern => matches!(pattern, Pat::Wild(_)),
        };
        let before = std::mem::replace(&mut self.has_default, node.arms.iter().any(default));
        for arm in &node.arms {
            self.arm(arm);
        }
        self.has_default = before;
        syn::visit::visit_expr_match(self, node);
    }
}

impl Finder<'_> {
    fn arm(&mut self, node: &Arm) {
        let arm_span = span_of(node.span());
        let mut mutants: Vec<Choice> = Vec::new();
        for (span, found) in &self.by_span {
            // With or without its comma.
            let arm = self.has_default
                && span.start == arm_span.start
                && found.iter().any(|(_, mutant)| mutant.genre == Genre::MatchArm);
            if arm {
                mutants.extend(
                    found
                        .iter()
                        .filter(|(_, m)| m.genre == Genre::MatchArm)
                        .map(|(number, _)| (*number, None)),
                );
            }
        }
        let guard = node.guard.as_ref().map(|(_, guard)| guard);
        if let Some(guard) = guard {
            mutants.extend(self.of(guard.span(), Genre::MatchArmGuard));
        }
        if !mutants.is_empty() && !guard.is_some_and(|guard| holds_let(guard)) {
            let pattern = self.range(node.pat.span());
            let guard = guard.map(|guard| self.range(guard.span()));
            let range = pattern.end..guard.as_ref().map_or(pattern.end, |guard| guard.end);
            self.edits.push(Edit { range, shape: Shape::Guard { guard }, mutants });
        }
    }
}

struct Writer<'a> {
    source: &'a str,
    edits: &'a [Edit],
    switch: &'a str,
    text: String,
    places: Vec<(Range<usize>, usize)>,
}

impl Writer<'_> {
    /// Writes this range of the source with the edits from `first` on that lie in it.
    fn write(&mut self, range: Range<usize>, first: usize) {
        let mut at = range.start;
        for index in first..self.edits.len() {
            let edit = &self.edits[index];
            if edit.range.start < at || edit.range.start > range.end {
                continue;
            }
            if edit.range.end > range.end {
                continue;
            }
            self.text.push_str(&self.source[at..edit.range.start]);
            at = edit.range.end;
            self.edit(index);
        }
        self.text.push_str(&self.source[at..range.end]);
    }

    fn when(&self, number: usize) -> String {
        format!("{}({number})", self.switch)
    }

    fn edit(&mut self, index: usize) {
        let edit = &self.edits[index];
        let start = self.text.len();
        let next = index + 1;
        match &edit.shape {
            Shape::Body => {
                // The type of an `impl Iterator` is that of the body, whatever a mutant gives.
                let (empty, others): (Vec<_>, Vec<_>) = edit
                    .mutants
                    .iter()
                    .partition(|(_, value)| value.as_deref() == Some("::std::iter::empty()"));
                if let Some((number, _)) = empty.first() {
                    self.text.push_str("let mutant_all = {");
                    self.write(edit.range.clone(), next);
                    let any: Vec<_> = edit.mutants.iter().map(|(number, _)| self.when(*number)).collect();
                    let any = any.join(" || ");
                    self.text.push_str(&format!("}}; mutant_all.into_iter().filter(move |_| !({any}))"));
                    self.places.push((start..self.text.len(), *number));
                    for (number, value) in others {
                        let value = value.as_deref().unwrap_or_default();
                        let one = value
                            .strip_prefix("::std::iter::once(")
                            .and_then(|value| value.strip_suffix(')'));
                        let one = one.unwrap_or(value);
                        let from = self.text.len();
                        self.text.push_str(&format!(".chain({}.then(|| {one}))", self.when(*number)));
                        self.places.push((from..self.text.len(), *number));
                    }
                    return;
                }
                for (number, value) in others {
                    let value = value.as_deref().unwrap_or("()");
                    let from = self.text.len();
                    self.text.push_str(&format!("if {} {{ return {value}; }} ", self.when(*number)));
                    self.places.push((from..self.text.len(), *number));
                }
                self.write(edit.range.clone(), next);
                return;
            }
            Shape::Binary { left, right, operator, kind: Kind::Comparison } => {
                self.text.push_str("(match (&(");
                self.write(left.clone(), next);
                self.text.push_str("), &(");
                self.write(right.clone(), next);
                self.text.push_str(")) { (mutant_l, mutant_r) => ");
                self.choose(&edit.mutants, operator, "*mutant_l", "*mutant_r");
                self.text.push_str(" })");
            }
            Shape::Binary { left, right, operator, kind: Kind::Lazy } => {
                self.text.push_str("({ let mutant_l: bool = ");
                self.write(left.clone(), next);
                self.text.push_str("; ");
                // The text stands twice: in a closure it would borrow what is moved, and `?` would return elsewhere.
                for (number, other) in &edit.mutants {
                    let when = self.when(*number);
                    let other = other.as_deref().unwrap_or_default();
                    self.text.push_str(&format!("if {when} {{ mutant_l {other} ("));
                    self.write(right.clone(), next);
                    self.text.push_str(") } else ");
                }
                self.text.push_str(&format!("{{ mutant_l {operator} ("));
                self.write(right.clone(), next);
                self.text.push_str(") } })");
            }
            Shape::Binary { left, right, operator, kind: Kind::Arithmetic } => {
                self.text.push_str("({ let mutant_l = ");
                self.write(left.clone(), next);
                self.text.push_str("; let mutant_r = ");
                self.write(right.clone(), next);
                self.text.push_str("; ");
                self.choose(&edit.mutants, operator, "mutant_l", "mutant_r");
                self.text.push_str(" })");
            }
            Shape::Binary { left, right, operator, kind: Kind::Assignment } => {
                for (number, other) in &edit.mutants {
                    self.text.push_str(&format!("if {} {{ ", self.when(*number)));
                    self.write(left.clone(), next);
                    self.text.push_str(&format!(" {} ", other.as_deref().unwrap_or_default()));
                    self.write(right.clone(), next);
                    self.text.push_str(" } else ");
                }
                self.text.push_str("{ ");
                self.write(left.clone(), next);
                self.text.push_str(&format!(" {operator} "));
                self.write(right.clone(), next);
                self.text.push_str(" }");
            }
            Shape::Const => {}
            Shape::Unary { value } => {
                let operator = self.source[edit.range.start..value.start].to_owned();
                self.text.push_str("({ let mutant_v = ");
                self.write(value.clone(), next);
                self.text.push_str("; ");
                for (number, _) in &edit.mutants {
                    self.text.push_str(&format!("if {} {{ mutant_v }} else ", self.when(*number)));
                }
                self.text.push_str(&format!("{{ {operator}mutant_v }} }})"));
            }
            Shape::Guard { guard } => {
                self.text.push_str(" if ");
                let (mut holds, mut fails) = (Vec::new(), Vec::new());
                for (number, other) in &edit.mutants {
                    let when = self.when(*number);
                    if other.as_deref() == Some("true") { holds.push(when) } else { fails.push(when) }
                }
                for fails in fails {
                    self.text.push_str(&format!("!{fails} && "));
                }
                self.text.push('(');
                for holds in holds {
                    self.text.push_str(&format!("{holds} || "));
                }
                match guard {
                    Some(guard) => {
                        self.text.push('(');
                        self.write(guard.clone(), next);
                        self.text.push(')');
                    }
                    None => self.text.push_str("true"),
                }
                self.text.push(')');
            }
        }
        for (number, _) in &edit.mutants {
            self.places.push((start..self.text.len(), *number));
        }
    }

    fn choose(&mut self, mutants: &[Choice], operator: &str, left: &str, right: &str) {
        for (number, other) in mutants {
            let (when, other) = (self.when(*number), other.as_deref().unwrap_or_default());
            let from = self.text.len();
            self.text.push_str(&format!("if {when} {{ {left} {other} {right} }} else "));
            self.places.push((from..self.text.len(), *number));
        }
        self.text.push_str(&format!("{{ {left} {operator} {right} }}"));
    }
}
