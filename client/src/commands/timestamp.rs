//! `sealwright timestamp`: what a time-stamping authority is to be asked for about an image in a layout, and putting its
//! answer beside the image. Asking is left to tools that speak to authorities, such as `openssl ts` and `curl`.

use std::path::Path;

use client::image::open_local;
use client::image::restamp::{RestampError, Stampable, put_timestamp, stampable};
use client::session::now;
use serde_json::json;
use verifier::time::{self, MAX_TIMESTAMP};

use super::args::TimestampArgs;
use super::failure::{Failure, exit};
use super::output::Output;
use super::setup::read_file;
use super::verify::{Target, target};

impl From<RestampError> for Failure {
    fn from(error: RestampError) -> Self {
        match error {
            RestampError::Image(error) => error.into(),
            other => Self::failed(other),
        }
    }
}

/// Prints the imprint of each Evidence collection, or adds a timestamp to the one that it is over.
pub(crate) fn run(args: &TimestampArgs, output: &Output) -> Result<u8, Failure> {
    let Target::Local(layout, selector) = target(&args.layout)? else {
        return Err(Failure::usage(
            "an image in a registry is not changed; give the directory of an OCI layout",
        ));
    };
    let image = open_local(&layout, selector.as_deref())?;
    let places = stampable(&image)?;
    if places.is_empty() {
        let what = "no Evidence with a signed statement stands beside the image";
        return Err(Failure::new(exit::NOT_AUTHENTIC, "NO_EVIDENCE", what));
    }
    match &args.add {
        None => {
            print(&places, output);
            Ok(0)
        }
        Some(file) => add(&layout, &places, file, output),
    }
}

fn print(places: &[Stampable], output: &Output) {
    let imprints: Vec<String> = places.iter().map(|place| place.imprint().hex()).collect();
    if output.is_json() {
        output.document(&json!({ "sha256": imprints }));
        return;
    }
    output.data(&(imprints.join("\n") + "\n"));
    output.say("ask an authority with: openssl ts -query -sha256 -cert -digest <this> -out query.tsq");
}

fn add(layout: &Path, places: &[Stampable], file: &Path, output: &Output) -> Result<u8, Failure> {
    if !layout.is_dir() {
        return Err(Failure::usage("a tar file is not changed; unpack it and give the directory")
            .at(layout.display()));
    }
    let timestamp = read_file(file, MAX_TIMESTAMP, "timestamp")?;
    let mut refused = None;
    for place in places {
        let stamped = provenance::evidence::EvidenceBundle {
            timestamp: Some(timestamp.clone()),
            ..place.bundle.clone()
        };
        match time::examine_in_itself(&stamped, &place.statement, now()) {
            Ok(time) => {
                let before = place.bundle.timestamp.is_some();
                put_timestamp(layout, place, timestamp)?;
                let word = if before { "replaced" } else { "stamped" };
                output.status(
                    word,
                    &format!("existed before {time}, says an authority that nobody was asked about"),
                );
                if output.is_json() {
                    output.document(&json!({ "existedBefore": time, "replaced": before }));
                }
                return Ok(0);
            }
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    let error = refused.expect("there is at least one place");
    Err(Failure::new(exit::NOT_AUTHENTIC, "BAD_TIMESTAMP", error)
        .at(file.display())
        .advise("ask an authority for the imprint that `sealwright timestamp` prints"))
}
