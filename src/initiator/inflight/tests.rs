//! Tests of the rules of a queue.
