//! Backing images from outside: made from a real HTTP server, files and peers; replicas, engines, rebuilds and backups on
//! top of them.

#![allow(dead_code)]

mod support;

#[path = "disaster_recovery/cluster.rs"]
mod cluster;

#[path = "backing_image/https.rs"]
mod https;
#[path = "backing_image/images.rs"]
mod images;
#[path = "backing_image/replicas.rs"]
mod replicas;
#[path = "backing_image/scene.rs"]
mod scene;
#[path = "backing_image/server.rs"]
mod server;
#[path = "backing_image/volumes.rs"]
mod volumes;
