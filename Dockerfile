# outport as an image: one static file, certificate authorities, and a user that is not root. There is no shell in it.
#
#   buildah build --timestamp 0 --build-arg REVISION="$(git rev-parse HEAD)" --tag outport .
#   podman run --read-only --cap-drop all --security-opt no-new-privileges --publish 443:8443 \
#       --volume ./outport.toml:/etc/outport/outport.toml:ro --volume outport-data:/var/lib/outport outport
#
# The configuration listens on 0.0.0.0:8443 and 0.0.0.0:5001 and has data_dir = "/var/lib/outport". The same sources on the same base
# give the same digest. docker's builder takes the time of day into it, unless it is told
# `--build-arg SOURCE_DATE_EPOCH=0 --provenance=false --output type=image,rewrite-timestamp=true`.

# A Debian with Rust, gcc, glibc's static libraries and the certificate authorities.
ARG RUST=docker.io/library/rust:1.95.0-slim-bookworm

FROM ${RUST} AS build
# jemalloc is built by make, AWS-LC by a C compiler.
RUN apt-get update && \
    apt-get install --yes --no-install-recommends make && \
    rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# Static: with glibc, whose copying of memory is faster than musl's. Only the bucket's client asks glibc for addresses, and static
# glibc has files and DNS built in. A target is named, because otherwise the flags would be for procedural macros too, which are
# dynamic. The cache may hold what newer sources gave: cargo goes by times, and `touch` makes these the newest. Kernels of arm64
# have pages of up to 64 KiB, and jemalloc must be built for the largest. With the names of its functions the file is a fifth larger,
# with their lines five times as large: they stay in /outport.debug of this stage (`--target build`), for the addresses in a backtrace.
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/src/target,sharing=locked \
    target=$(rustc -vV | sed -n 's/^host: //p') && \
    case "$target" in aarch64-*) export JEMALLOC_SYS_WITH_LG_PAGE=16 ;; esac && \
    export RUSTFLAGS="-C target-feature=+crt-static --remap-path-prefix=/usr/local/cargo/registry/src=/crates" && \
    touch src/lib.rs src/main.rs && \
    cargo build --release --locked --bin outport --target "$target" && \
    cp "target/$target/release/outport" /outport.debug && \
    strip -o /outport /outport.debug

# What lies beside the binary.
FROM ${RUST} AS root
RUN mkdir -p /image/etc/outport /image/etc/ssl/certs /image/var/lib && \
    cp /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ && \
    echo 'nonroot:x:65532:65532:nonroot:/var/lib/outport:/sbin/nologin' >/image/etc/passwd && \
    echo 'nonroot:x:65532:' >/image/etc/group && \
    mkdir -p /data && \
    mkdir -m 0700 /data/outport

FROM scratch
ARG VERSION=0.1.0
ARG REVISION=
ARG SOURCE=
LABEL org.opencontainers.image.title="outport" \
      org.opencontainers.image.description="A geo-replicating registry pull-through proxy" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}"
COPY --chmod=0644 LICENSE /LICENSE
COPY --from=root /image/ /
# A new volume takes over its owner and mode.
COPY --from=root --chown=65532:65532 /data/ /var/lib/
COPY --from=build /outport /outport
ENV OUTPORT_CONFIG=/etc/outport/outport.toml
# A number, since Kubernetes' runAsNonRoot does not look names up.
USER 65532:65532
VOLUME /var/lib/outport
EXPOSE 8443 5001
ENTRYPOINT ["/outport"]
CMD ["serve"]
