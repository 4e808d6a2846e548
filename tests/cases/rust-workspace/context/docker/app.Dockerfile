FROM debian:bookworm AS build
RUN echo force-unsafe-io >/etc/dpkg/dpkg.cfg.d/unsafe-io && apt-get update
RUN apt-get install -y --no-install-recommends cargo rustc
WORKDIR /work
COPY Cargo.toml Cargo.lock ./
COPY --parents */Cargo.toml ./
RUN for crate in app sum; do mkdir -p $crate/src; done \
 && echo 'fn main() {}' >app/src/main.rs && touch sum/src/lib.rs && cargo fetch --offline --locked
COPY . .
ARG PROFILE=dev
RUN --mount=type=cache,target=/work/target \
    cargo build --offline --locked --profile ${PROFILE} -p app && install -D target/release/app /out/app \
 && /out/app 1 2 3 | grep -x 6

FROM debian:bookworm
COPY --from=build /out/app /usr/local/bin/app
RUN ["/usr/local/bin/app", "40", "2"]
ENV RUST_BACKTRACE=1
ENTRYPOINT ["app"]
