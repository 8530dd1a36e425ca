use std::path::Path;

use super::*;

fn parse_text(text: &str) -> Result<FileSettings, ConfigError> {
    parse(text, Path::new("job.yaml"))
}

/// Each setting as `NAME=VALUE`, from the key that says it.
fn settings(text: &str) -> Vec<(String, String)> {
    let settings = parse_text(text).unwrap().settings;
    let shown = |(name, setting): (&str, FileSetting)| {
        (format!("{}={}", name.replace("PACELINE_", ""), setting.value), setting.key)
    };
    settings.into_iter().map(shown).collect()
}

/// Every key that Horovod documents.
const ALL: &str = "
controller: gloo
params:
  fusion_threshold_mb: 32
  cycle_time_ms: 3.5
  cache_capacity: 2048
  hierarchical_allreduce: true
  hierarchical_allgather: true
  torus_allreduce: false
autotune:
  enabled: true
  log_file: 'tune.csv'
  warmup_samples: 5
  steps_per_sample: 20
  bayes_opt_max_samples: 50
  gaussian_process_noise: 0.9
timeline:
  filename: 'timeline.json'
  mark_cycles: true
stall_check:
  enabled: true
  warning_time_seconds: 120
  shutdown_time_seconds: 240
library_options:
  mpi_threads_disable: true
  num_nccl_streams: 2
  ccl_bgt_affinity: 1
  thread_affinity: 1
  gloo_timeout_seconds: 60
logging:
  level: INFO
  hide_timestamp: true
  with_timestamp: true
";

#[test]
fn every_key_of_horovods_is_a_setting_or_has_a_reason_why_it_is_none() {
    let expected = [
        ("CACHE_CAPACITY=2048", "params.cache_capacity"),
        ("CYCLE_TIME=3.5", "params.cycle_time_ms"),
        ("FUSION_THRESHOLD=32M", "params.fusion_threshold_mb"),
        ("STALL_CHECK_TIME=120", "stall_check.warning_time_seconds"),
        ("STALL_REPORT=120", "stall_check.warning_time_seconds"),
        ("STALL_SHUTDOWN_TIME=240", "stall_check.shutdown_time_seconds"),
        ("TIMELINE=timeline.json", "timeline.filename"),
        ("TIMEOUT=60", "library_options.gloo_timeout_seconds"),
    ];
    assert_eq!(settings(ALL), expected.map(|(said, key)| (said.to_owned(), key.to_owned())));
    let notices = parse_text(ALL).unwrap().notices;
    let links = "job.yaml: params.hierarchical_allreduce, params.hierarchical_allgather, \
        params.torus_allreduce change nothing: the ranks measure their links";
    assert!(notices.iter().any(|notice| notice.starts_with(links)), "{notices:?}");
    let cycles = "job.yaml: timeline.mark_cycles changes nothing: ";
    assert!(notices.iter().any(|notice| notice.starts_with(cycles)), "{notices:?}");
    for name in ["controller", "autotune.enabled", "logging.level", "num_nccl_streams"] {
        let naming = notices.iter().filter(|notice| notice.contains(name));
        assert_eq!(naming.count(), 1, "{name}: {notices:?}");
    }
}

#[test]
fn keys_of_options_stand_outside_of_sections() {
    let text = "num_proc: 4\nhosts: [a:2, b:2]\nssh-port: 2222\nnics: eth0\nno_prefix: True\n";
    let said: Vec<String> = settings(text).into_iter().map(|(said, _)| said).collect();
    assert_eq!(
        said,
        ["HOSTS=a:2,b:2", "INTERFACE=eth0", "NO_PREFIX=true", "NP=4", "SSH_PORT=2222"]
    );
    assert_eq!(settings("np:\nparams:\ntimeline: {}\n"), []);
}

#[test]
fn a_stall_check_that_is_off_has_no_time() {
    let off = ["STALL_CHECK_TIME=0", "STALL_REPORT=0"];
    for text in [
        "stall_check: {enabled: false}",
        "stall_check: {enabled: False, warning_time_seconds: 5}",
        "stall_check: {warning_time_seconds: 5, enabled: no}",
        "stall_check: {warning_time_seconds: 0}",
    ] {
        let said: Vec<String> = settings(text).into_iter().map(|(said, _)| said).collect();
        assert_eq!(said, off, "{text}");
    }
}

#[test]
fn mistakes_have_a_line_and_what_was_meant() {
    for (text, said, hint) in [
        (
            "params:\n  fusion_treshold_mb: 32",
            "job.yaml:2: unknown key \"params.fusion_treshold_mb\"",
            "did you mean \"fusion_threshold_mb\"?",
        ),
        ("parms:\n  cycle_time_ms: 1", "job.yaml:1: unknown key \"parms\"", "\"params\"?"),
        ("start_timout: 3", "job.yaml:1: unknown key \"start_timout\"", "\"start-timeout\"?"),
        ("logging:\n  colour: 1", "job.yaml:2: unknown key", "the keys are level, with_t"),
        ("config: x", "job.yaml:1: unknown key \"config\"", ""),
        (
            "params:\n  fusion_threshold_mb: 0.5",
            "job.yaml:2: params.fusion_threshold_mb = \"0.5\" is invalid: expected a whole number of",
            "",
        ),
        ("params: 3", "job.yaml:1: params = \"3\" is invalid: expected a section", ""),
        ("np: {a: 1}", "job.yaml:1: np = a section is invalid: expected one value", ""),
        ("controller: spark", "job.yaml:1: controller = \"spark\" is invalid: expected gloo", ""),
        ("stall_check:\n  enabled: maybe", "job.yaml:2: stall_check.enabled = \"maybe\" is", ""),
        ("np: 0", "job.yaml:1: np = \"0\" is invalid: expected a whole number, at least 1", ""),
        ("np: 2\nnum_proc: 4", "job.yaml:2: num_proc says the same as np", ""),
        ("a: &b 1\nc: *b", "job.yaml:2: an alias is not understood", ""),
    ] {
        let error = parse_text(text).unwrap_err();
        assert!(error.to_string().starts_with(said), "{error}");
        assert!(error.hint().unwrap_or_default().contains(hint), "{:?}", error.hint());
    }
}
