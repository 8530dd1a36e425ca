//! Who is who in a job and how they prove it: environment, RankInfo, store, hello, MAC, frames.
