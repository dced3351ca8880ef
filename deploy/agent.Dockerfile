# The agent in a container. It needs the Engine's socket and the Engine's data
# root at the same path as on the host:
#   docker run -d --name holdfast-agent --restart always --cap-add SYS_ADMIN --network host \
#     -v /var/run/docker.sock:/var/run/docker.sock \
#     -v /var/lib/docker:/var/lib/docker:rslave \
#     -v holdfast-agent:/var/lib/holdfast-agent -v /run/holdfast:/run/holdfast holdfast-agent
FROM rust:1-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked -p holdfast-agent

FROM debian:bookworm-slim
COPY --from=build /src/target/release/holdfast-agent /usr/bin/holdfast-agent
VOLUME /var/lib/holdfast-agent
ENTRYPOINT ["/usr/bin/holdfast-agent"]
CMD ["run"]
