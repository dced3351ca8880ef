# The controller, with the command line beside it.
FROM rust:1-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked -p holdfast-controller -p holdfast-cli

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /var/lib/holdfast-controller holdfast \
    && install -d -o holdfast -g holdfast -m 0700 /var/lib/holdfast-controller
COPY --from=build /src/target/release/holdfast-controller /src/target/release/holdfast /usr/bin/
# By this agents know it: a controller cannot lead its own replacement.
LABEL org.holdfast.role=controller
USER holdfast
VOLUME /var/lib/holdfast-controller
EXPOSE 7443
ENTRYPOINT ["/usr/bin/holdfast-controller"]
CMD ["run", "--state-dir", "/var/lib/holdfast-controller", "--listen", "0.0.0.0:7443"]
