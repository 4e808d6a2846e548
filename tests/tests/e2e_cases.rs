//! Every case of `tests/cases`: built by `sealwright` and by `buildctl` on the same daemon, compared field by field,
//! judged by `sealwright verify`.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use sealwright_tests::harness::cases::Workshop;

static WORKSHOP: LazyLock<Workshop> = LazyLock::new(Workshop::open);

/// One test for each case, and one that no folder is forgotten.
macro_rules! cases {
    ($($test:ident = $name:literal;)+) => {
        $(
            #[test]
            fn $test() {
                WORKSHOP.run($name);
            }
        )+

        #[test]
        fn every_folder_of_cases_is_tested() {
            let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/cases");
            let found: BTreeSet<String> = std::fs::read_dir(folder)
                .expect("tests/cases")
                .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
                .collect();
            let tested: BTreeSet<String> = [$($name),+].map(str::to_owned).into();
            assert_eq!(found, tested);
        }
    };
}

cases! {
    multi_stage_c = "multi-stage-c";
    go_module = "go-module";
    rust_workspace = "rust-workspace";
    python_pip = "python-pip";
    node_npm = "node-npm";
    heredocs_and_copy_flags = "heredocs-and-copy-flags";
    git_and_http_sources = "git-and-http-sources";
    cache_mounts = "cache-mounts";
    secrets_and_ssh = "secrets-and-ssh";
    multi_platform = "multi-platform";
    onbuild_parent = "onbuild-parent";
    onbuild_child = "onbuild-child";
    many_files_and_a_hard_ignore_file = "many-files";
    odd_names = "odd-names";
    git_context = "git-context";
    git_subdirectory = "git-subdirectory";
    named_contexts = "named-contexts";
}
