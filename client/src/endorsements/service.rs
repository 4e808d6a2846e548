//! Asking a service: limits on sizes and times, a bounded number of attempts, the cache.

use std::time::Duration;

use futures_util::StreamExt as _;
use provenance::timestamp::Timestamp;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{StatusCode, redirect};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use super::{Answer, Asked, Cache, FetchError, MAX_ANSWER, Patience};
use crate::image::registry::{CONNECT_TIMEOUT, USER_AGENT, with_sources};
use crate::tls;

/// One question.
pub(super) struct Question {
    pub(super) url: String,
    /// Header with the chain of the answer's signer.
    pub(super) chain: Option<&'static str>,
    /// Whether the answer is another one tomorrow.
    pub(super) ages: bool,
    /// What should come, for messages.
    pub(super) wanted: &'static str,
    /// Says what is wrong with the form of an answer.
    pub(super) form: fn(&Answer) -> Result<(), String>,
}

/// A way to ask.
pub(super) struct Service {
    http: reqwest::Client,
    cache: Option<Cache>,
    patience: Patience,
    cached_only: bool,
    now: Timestamp,
}

/// What one attempt came to.
enum Attempt {
    Answer(Answer),
    /// Not now: ask again after a pause, which the service may name.
    Later(Option<Duration>, FetchError),
    Never(FetchError),
}

impl Service {
    pub(super) fn new(
        cache: Option<Cache>,
        patience: Patience,
        cached_only: bool,
        now: Timestamp,
    ) -> Result<Self, FetchError> {
        // reqwest takes the process's provider; a second installation means that somebody did the same.
        let _ = tls::provider().install_default();
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(patience.attempt)
            // Neither service redirects; who does is somebody else.
            .redirect(redirect::Policy::none())
            .user_agent(USER_AGENT)
            .build()
            .map_err(|error| FetchError::Client { problem: with_sources(&error) })?;
        Ok(Self { http, cache, patience, cached_only, now })
    }

    /// The answer to a question, from the cache or from the service, with its form checked.
    pub(super) async fn ask(
        &self,
        question: &Question,
        asked: &mut Vec<Asked>,
    ) -> Result<Answer, FetchError> {
        let url = &question.url;
        if self.cached_only || !question.ages {
            let kept = self.cache.as_ref().and_then(|cache| cache.get(url));
            if let Some((answer, when)) = kept.filter(|(answer, _)| check(question, answer).is_ok()) {
                asked.push(Asked { url: url.clone(), cached: Some(when) });
                return Ok(answer);
            }
            if self.cached_only {
                return Err(FetchError::NotCached { url: url.clone() });
            }
        }
        let answer = self.fetch(question).await?;
        check(question, &answer)?;
        // A cache that cannot be written costs another question next time and nothing else.
        if let Some(cache) = &self.cache {
            let _ = cache.put(url, &answer, self.now);
        }
        asked.push(Asked { url: url.clone(), cached: None });
        Ok(answer)
    }

    async fn fetch(&self, question: &Question) -> Result<Answer, FetchError> {
        let mut pause = self.patience.pause;
        let mut number = 1;
        loop {
            let (told, error) = match self.attempt(question, number).await {
                Attempt::Answer(answer) => return Ok(answer),
                Attempt::Never(error) => return Err(error),
                Attempt::Later(told, error) => (told, error),
            };
            if number >= self.patience.attempts || told.is_some_and(|told| told > self.patience.longest_pause)
            {
                return Err(error);
            }
            tokio::time::sleep(told.unwrap_or(pause)).await;
            pause *= 2;
            number += 1;
        }
    }

    async fn attempt(&self, question: &Question, number: u32) -> Attempt {
        let url = question.url.clone();
        let answer = match self.http.get(&question.url).send().await {
            Ok(answer) => answer,
            Err(error) => {
                let problem = with_sources(&error);
                return Attempt::Later(None, FetchError::Unreachable { url, attempts: number, problem });
            }
        };
        let status = answer.status();
        let retry_after = retry_after(answer.headers(), self.now);
        match status {
            StatusCode::OK => {}
            StatusCode::TOO_MANY_REQUESTS => {
                let error = FetchError::RateLimited { url, status: status.as_u16(), retry_after };
                return Attempt::Later(retry_after, error);
            }
            _ if status.is_server_error() => {
                let error = match retry_after {
                    Some(_) => FetchError::RateLimited { url, status: status.as_u16(), retry_after },
                    None => FetchError::Failing { url, status: status.as_u16(), attempts: number },
                };
                return Attempt::Later(retry_after, error);
            }
            _ => return Attempt::Never(FetchError::Refused { url, status: status.as_u16() }),
        }
        let chain = match question.chain {
            None => None,
            Some(header) => match answer.headers().get(header).and_then(|value| value.to_str().ok()) {
                Some(chain) => Some(chain.to_owned()),
                None => return Attempt::Never(FetchError::NoChain { url, header }),
            },
        };
        let mut body = Vec::new();
        let mut stream = answer.bytes_stream();
        while let Some(piece) = stream.next().await {
            match piece {
                Ok(piece) if body.len() + piece.len() > MAX_ANSWER => {
                    return Attempt::Never(FetchError::TooLarge { url });
                }
                Ok(piece) => body.extend_from_slice(&piece),
                Err(error) => {
                    let problem = with_sources(&error);
                    return Attempt::Later(None, FetchError::CutOff { url, attempts: number, problem });
                }
            }
        }
        Attempt::Answer(Answer { body, chain })
    }
}

fn check(question: &Question, answer: &Answer) -> Result<(), FetchError> {
    (question.form)(answer).map_err(|problem| FetchError::Form {
        url: question.url.clone(),
        wanted: question.wanted,
        problem,
    })
}

/// Retry-After (RFC 9110 §10.2.3): seconds, or a date.
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = OffsetDateTime::parse(text, &Rfc2822).ok()?;
    Some(Duration::from_secs(u64::try_from(date.unix_timestamp() - now.unix()).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = Timestamp::parse("2026-03-01T00:00:00Z").expect("a time");
        let told = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().expect("a header"));
            retry_after(&headers, now)
        };
        assert_eq!(told("7"), Some(Duration::from_secs(7)));
        assert_eq!(told("Sun, 01 Mar 2026 00:00:30 GMT"), Some(Duration::from_secs(30)));
        assert_eq!(told("Sat, 28 Feb 2026 00:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(told("soon"), None);
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}
