# Compiles the three binaries, once for both services:
#   docker build -t holdfast-build -f deploy/build.Dockerfile .
# It takes a while and needs the network. The result is thrown away but for
# /out, from which deploy/Dockerfile makes the image that runs. What compiles can
# put anything into what is compiled: name it by its digest as is said there,
#   docker build -t holdfast-build --build-arg BASE=rust@sha256:... -f deploy/build.Dockerfile .
ARG BASE=rust:1-bookworm
FROM ${BASE}
WORKDIR /src
COPY . .
RUN ./deploy/build \
    && install -d /out/bin /out/certs \
    && install -d -o 10001 -g 10001 -m 0700 /out/state/holdfast-controller \
    && install -m 0755 -t /out/bin target/release/holdfast target/release/holdfast-agent target/release/holdfast-controller \
    && cp /etc/ssl/certs/ca-certificates.crt /out/certs/ \
    && rm -rf target
