use super::*;

#[test]
fn ignore_files_have_limits() {
    let line = [&[b'a'; 1023][..], b"\n"].concat().repeat(MAX_IGNORE_FILE / 1024);
    assert_eq!(parse_ignore_file(&line).map(|patterns| patterns.len()), Ok(MAX_IGNORE_FILE / 1024));
    let too_long = |file: &[u8]| {
        matches!(parse_ignore_file(file), Err(InvalidPattern { fault: PatternFault::TooLong, .. }))
    };
    assert!(too_long(&[&line[..], b"\n"].concat()));
    assert!(!too_long(&vec![b'a'; MAX_LINE - 1]));
    assert!(too_long(&vec![b'a'; MAX_LINE]));
}

#[test]
fn leading_slashes_go_and_the_root_stays() {
    let parsed = |file: &str| parse_ignore_file(file.as_bytes()).expect("patterns");
    assert_eq!(parsed("/a\n//b\n!/c\n# no\n\n  d  \n"), [&b"a"[..], b"b", b"!c", b"d"]);
    assert_eq!(parsed("/"), [b"/"]);
}

#[test]
fn patterns_have_a_longest_length_and_two_stars_need_their_directory() {
    let long = |length: usize| Patterns::new(&[vec![b'a'; length]]).map(|_| ());
    assert_eq!(long(64 << 10), Ok(()));
    assert!(matches!(long((64 << 10) + 1), Err(InvalidPattern { fault: PatternFault::TooLong, .. })));
    let patterns = Patterns::new(&["ab/**"]).expect("a pattern");
    let matches = |path: &str| patterns.matches(path.as_bytes(), &MatchInfo::default()).expect("no error").0;
    assert_eq!(["ab/c", "ab/c/d", "abx", "ab"].map(matches), [true, true, false, false]);
}

#[test]
fn what_is_in_a_matching_directory_matches() {
    let patterns = Patterns::new(&["dir"]).expect("a pattern");
    let matches = |path: &str| patterns.matches(path.as_bytes(), &MatchInfo::default()).expect("no error").0;
    assert_eq!(["dir", "dir/a/b", "dire", "a/dir"].map(matches), [true, true, false, false]);
}

#[test]
fn a_walk_goes_only_where_something_can_be_part_of_the_tree() {
    let none: [&str; 0] = [];
    let visit = |filter: &Filter, path: &str| {
        let visit = filter.visit(path.as_bytes(), true, &FilterState::default()).expect("no error");
        (visit.included, visit.descend)
    };
    let include = Filter::new(&["dir/x"], &none).expect("a filter");
    assert_eq!(
        ["dir", "dir/x", "other"].map(|path| visit(&include, path)),
        [(false, true), (true, true), (false, false)]
    );
    let glob = Filter::new(&["**/x"], &none).expect("a filter");
    assert_eq!(visit(&glob, "other"), (false, true), "anything may be in there");
    let both = Filter::new(&["dir/x"], &["dir"]).expect("a filter");
    assert_eq!(visit(&both, "dir"), (false, false), "nothing in there can be included");
    let exclude = Filter::new(&none, &["dir", "other", "!dir/keep"]).expect("a filter");
    assert_eq!(
        ["dir", "other", "third"].map(|path| visit(&exclude, path)),
        [(false, true), (false, false), (true, true)]
    );
    let glob = Filter::new(&none, &["dir", "!**/keep"]).expect("a filter");
    assert_eq!(visit(&glob, "dir"), (false, true), "anything may be in there");
    let file = exclude.visit(b"third", false, &FilterState::default()).expect("no error");
    assert!(file.included && !file.descend);
}

#[test]
fn a_path_is_included_as_a_walk_would_find_it() {
    let none: [&str; 0] = [];
    let filter = Filter::new(&none, &["dir", "!dir/keep", "gone"]).expect("a filter");
    let includes = |path: &str| filter.includes(path.as_bytes()).expect("no error");
    for (path, wanted) in [
        ("a", true),
        ("a/b/c", true),
        ("dir/keep", true),
        ("dir/keep/a", true),
        ("dir/other", false),
        ("gone", false),
        ("gone/a/b", false),
    ] {
        assert_eq!(includes(path), wanted, "{path}");
    }
    let filter = Filter::new(&["dir/x"], &["dir"]).expect("a filter");
    assert_eq!(filter.includes(b"dir/x"), Ok(false), "what is in an excluded directory is excluded");
}

#[test]
fn the_longest_pattern_needs_no_deep_stack() {
    let pattern = [b"**/".repeat(21_000), b"*x".to_vec()].concat();
    let small = std::thread::Builder::new().stack_size(256 << 10);
    let matched = small.spawn(move || {
        let patterns = Patterns::new(&[pattern]).expect("well-formed");
        ["a/b/x", "a/b/y"].map(|path| patterns.matches(path.as_bytes(), &MatchInfo::default()).map(|m| m.0))
    });
    assert_eq!(matched.expect("a thread").join().expect("no panic"), [Ok(true), Ok(false)]);
}

/// As Go's `filepath.Match` answers.
#[test]
fn names_match_patterns_of_one_name() {
    for (pattern, name, wanted) in [
        ("", "", true),
        ("", "a", false),
        ("a", "", false),
        ("a", "a", true),
        ("a", "ab", false),
        ("*", "", true),
        ("*", "abc", true),
        ("a*", "a", true),
        ("*a", "ba", true),
        ("*a", "ab", false),
        ("a*b*c", "aXbYc", true),
        ("a*b*c", "aXcYb", false),
        ("a*b*c", "abbbc", true),
        ("*a*a*a*b", "aaaaaaaaaaaaaaaa", false),
        ("*ab", "aab", true),
        ("a?c", "abc", true),
        ("a?c", "ac", false),
        ("?", "é", true),
        ("é?", "éx", true),
        ("[a-c]", "a", true),
        ("[a-c]", "c", true),
        ("[a-c]", "d", false),
        ("[^a-c]", "d", true),
        ("[^a-c]", "b", false),
        ("[^a-c]", "^", true),
        ("[^a-c]", "[", true),
        ("[abc]x", "bx", true),
        ("[ab-de]", "e", true),
        ("[а-я]", "ж", true),
        ("[\\]]", "]", true),
        ("[\\-]", "-", true),
        ("[a\\-c]", "b", false),
        ("[!a]", "!", true),
        ("\\*", "*", true),
        ("\\*", "a", false),
        ("\\a", "a", true),
        ("ab", "a", false),
        ("a*", "bab", false),
        ("x[a]y", "xay", true),
        ("x[\\a\\b]y", "xby", true),
        ("x[\\a-\\c]y", "xby", true),
        ("[a-c][x-z]", "by", true),
        ("a\\bc", "abc", true),
        ("[\\[-\\]]", "\\", true),
        ("[^]", "", false),
        // Malformed ones match nothing.
        ("[", "[", false),
        ("[a", "a", false),
        ("[]", "]", false),
        ("[]a]", "]", false),
        ("[-a]", "-", false),
        ("[a-]", "a", false),
        ("[^]", "a", false),
        ("a\\", "a\\", false),
        ("*[", "a", false),
    ] {
        assert_eq!(matches_name(pattern.as_bytes(), name.as_bytes()), wanted, "{pattern:?} {name:?}");
    }
    for (pattern, name, wanted) in [
        (&b"\xff"[..], &b"\xff"[..], true),
        (b"\xfe", b"\xff", false),
        (b"?", b"\xff", true),
        (b"a\xffb", "a\u{fffd}b".as_bytes(), false),
        (b"\xff", b"\0", false),
        (b"\xff", "\u{ff}".as_bytes(), false),
        (b"\xff", "\u{10ff01}".as_bytes(), false),
    ] {
        assert_eq!(matches_name(pattern, name), wanted, "{pattern:?} {name:?}");
    }
}

/// As Docker's matcher answers, which makes a regular expression of most patterns: what is one there is one here.
#[test]
fn paths_match_patterns() {
    for (pattern, path, wanted) in [
        ("a", "a", Some(true)),
        ("a", "b", Some(false)),
        ("a.b", "a.b", Some(true)),
        ("a.b*", "a.bc", Some(true)),
        ("a.b*", "axbc", Some(false)),
        ("a+b*", "a+b", Some(true)),
        ("a(b|c)*", "a(b|c)d", Some(true)),
        ("a{2}*", "a{2}", Some(true)),
        ("a$*", "a$", Some(true)),
        ("*.md", "a.md", Some(true)),
        ("*.md", "d/a.md", Some(false)),
        ("*/b", "a/b", Some(true)),
        ("*/b", "a/c/b", Some(false)),
        ("a?", "ab", Some(true)),
        ("a?", "a", Some(false)),
        ("a?", "abc", Some(false)),
        ("**", "a/b", Some(true)),
        ("**/x", "x", Some(true)),
        ("**/x", "a/b/x", Some(true)),
        ("**/x", "ax", Some(false)),
        ("**x", "ax", Some(true)),
        ("**/*.md", "a.md", Some(true)),
        ("**/*.md", "d/e/a.md", Some(true)),
        ("**/*.md", "d/a.mdx", Some(false)),
        ("a/**", "a/b/c", Some(true)),
        ("a/**", "ab", Some(false)),
        ("a**", "ab/c", Some(true)),
        ("a/**/b", "a/b", Some(true)),
        ("a/**/b", "a/x/y/b", Some(true)),
        ("a/**/b", "a/xb", Some(false)),
        ("a*/**", "ab/c/d", Some(true)),
        ("a*/**", "b/c", Some(false)),
        ("[ab]c", "bc", Some(true)),
        ("[ab]c", "cc", Some(false)),
        ("[^ab]c", "bc", Some(false)),
        ("[^ab]c", "cc", Some(true)),
        ("[a-c]", "b", Some(true)),
        ("[a-c]", "d", Some(false)),
        ("a\\*b", "a*b", Some(true)),
        ("a\\*b", "axb", Some(false)),
        ("x\\d", "x5", Some(true)),
        ("x\\d", "xd", Some(false)),
        ("x\\D", "x5", Some(false)),
        ("x\\D", "xd", Some(true)),
        ("x\\s", "x ", Some(true)),
        ("x\\s", "xs", Some(false)),
        ("x\\S", "x ", Some(false)),
        ("x\\w", "x_", Some(true)),
        ("x\\w", "x-", Some(false)),
        ("x\\W", "x-", Some(true)),
        ("x\\b-", "x-", Some(true)),
        ("x\\bx", "xx", Some(false)),
        ("x\\Bx", "xx", Some(true)),
        ("x\\B-", "x-", Some(false)),
        ("\\Aa*", "ab", Some(true)),
        ("a\\Ab*", "ab", Some(false)),
        ("*\\z", "ab", Some(true)),
        ("*\\zb", "ab", Some(false)),
        ("^a*", "ab", Some(true)),
        ("a^b*", "ab", Some(false)),
        ("x\\n", "x\n", Some(true)),
        ("x\\t", "x\t", Some(true)),
        ("x\\r", "x\r", Some(true)),
        ("x\\a", "x\u{7}", Some(true)),
        ("x\\f", "x\u{c}", Some(true)),
        ("x\\v", "x\u{b}", Some(true)),
        ("x\\101", "xA", Some(true)),
        ("x\\07y", "x\u{7}y", Some(true)),
        ("x\\12", "x\n", Some(true)),
        ("x\\1018", "xA8", Some(true)),
        ("x\\x41", "xA", Some(true)),
        ("x\\x4", "x", None),
        ("x\\1", "x", None),
        ("x\\x{41}", "xA", None),
        ("x\\p", "x", None),
        ("x\\-", "x-", Some(true)),
        ("\\Qab\\E", "ab", Some(true)),
        ("\\Qab\\Ec", "abc", Some(true)),
        ("\\Qab", "ab", Some(true)),
        ("\\Qab", "abc", Some(false)),
        ("[[:alpha:]]", "b", Some(true)),
        ("[[:alpha:]]", "1", Some(false)),
        ("[[:^alpha:]]", "1", Some(true)),
        ("[[:^alpha:]]", "b", Some(false)),
        ("[[:digit:]x]", "x", Some(true)),
        ("[[:none:]]", "x", None),
        ("[\\d]", "5", Some(true)),
        ("[\\d]", "x", Some(false)),
        ("[\\d]", "d", Some(false)),
        ("[^ab]c", "^c", Some(true)),
        ("[^ab]c", "[c", Some(true)),
        ("[[:alpha:]1-]", "-", Some(true)),
        ("[[:alpha:]1-]", "1", Some(true)),
        ("[[:alpha:]1-]", "2", Some(false)),
        ("[[:alpha:]1-]", "]", Some(false)),
        ("[\\D]", "5", Some(false)),
        ("[\\D]", "x", Some(true)),
        ("[\\W]", "-", Some(true)),
        ("[\\W]", "_", Some(false)),
        ("[\\n]", "\n", Some(true)),
        ("[c-a]", "b", None),
        ("[a-a]", "a", Some(true)),
        ("[\\D]", "/", Some(true)),
        ("[\\D]", ":", Some(true)),
        ("[\\W]", "\u{10ffff}", Some(true)),
        ("[[:^ascii:]]", "\0", Some(false)),
        ("[[:^cntrl:]]", "\0", Some(false)),
        ("[[:^cntrl:]]", " ", Some(true)),
        ("[^[:digit:]]", "x", Some(true)),
        ("[^[:digit:]]", "5", Some(false)),
        ("[[:x]", ":", Some(true)),
        ("[\\d-x]", "-", Some(true)),
        ("[a\\-c]", "b", Some(false)),
        ("[a\\-c]", "-", Some(true)),
        ("x\\x{", "x", None),
        ("x\\xg1", "x", None),
    ] {
        let patterns = Patterns::new(&[pattern]).expect("it passes the first check");
        let matched = patterns.matches(path.as_bytes(), &MatchInfo::default()).map(|(matched, _)| matched);
        assert_eq!(matched.ok(), wanted, "{pattern:?} {path:?}");
    }
}

/// The classes with a name hold of ASCII what RE2 says of them, and nothing beyond it.
#[test]
fn classes_with_a_name_hold_what_they_say() {
    type Holds = fn(char) -> bool;
    let classes: [(&str, Holds); 14] = [
        ("alnum", |c| c.is_ascii_alphanumeric()),
        ("alpha", |c| c.is_ascii_alphabetic()),
        ("ascii", |c| c.is_ascii()),
        ("blank", |c| c == ' ' || c == '\t'),
        ("cntrl", |c| c.is_ascii_control()),
        ("digit", |c| c.is_ascii_digit()),
        ("graph", |c| c.is_ascii_graphic()),
        ("lower", |c| c.is_ascii_lowercase()),
        ("print", |c| c.is_ascii_graphic() || c == ' '),
        ("punct", |c| c.is_ascii_punctuation()),
        ("space", |c| c == ' ' || ('\t'..='\r').contains(&c)),
        ("upper", |c| c.is_ascii_uppercase()),
        ("word", |c| c.is_ascii_alphanumeric() || c == '_'),
        ("xdigit", |c| c.is_ascii_hexdigit()),
    ];
    for (name, holds) in classes {
        for (pattern, negated) in [(format!("[[:{name}:]]"), false), (format!("[[:^{name}:]]"), true)] {
            let patterns = Patterns::new(&[&pattern]).expect("a pattern");
            for c in (0..=0xff_u32).filter_map(char::from_u32) {
                let path = c.to_string();
                let matched =
                    patterns.matches(path.as_bytes(), &MatchInfo::default()).map(|(matched, _)| matched);
                assert_eq!(matched, Ok(holds(c) != negated), "{pattern} {c:?}");
            }
        }
    }
}

/// As Go's `filepath.Clean` answers.
#[test]
fn paths_are_cleaned() {
    for (path, wanted) in [
        ("", "."),
        (".", "."),
        ("./", "."),
        ("..", ".."),
        ("../..", "../.."),
        ("../a", "../a"),
        ("../../a/..", "../.."),
        ("a/..", "."),
        ("a/../..", ".."),
        ("a/../../b", "../b"),
        ("a//b/./c/", "a/b/c"),
        ("a/b/../c", "a/c"),
        ("/", "/"),
        ("//", "/"),
        ("/..", "/"),
        ("/../a", "/a"),
        ("/a/../../b", "/b"),
        ("/a/b/../..", "/"),
    ] {
        assert_eq!(clean(path.as_bytes()), wanted.as_bytes(), "{path:?}");
    }
}

#[test]
fn malformed_patterns_are_refused_at_once() {
    for (pattern, fault) in [
        ("[", PatternFault::Syntax),
        ("a[b", PatternFault::Syntax),
        ("[]", PatternFault::Syntax),
        ("[a-]", PatternFault::Syntax),
        ("[+--]", PatternFault::Syntax),
        ("a\\", PatternFault::Syntax),
        ("!", PatternFault::LoneException),
    ] {
        assert_eq!(Patterns::new(&[pattern]).map(|_| ()).expect_err(pattern).fault, fault);
    }
    assert!(Patterns::new(&["  ", ""]).expect("nothing").patterns.is_empty());
}
