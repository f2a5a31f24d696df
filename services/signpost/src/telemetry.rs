//! Logs. To standard error: standard output belongs to what a command answers.
use crate::config::{ConfigError, LogFormat};
use tracing_subscriber::EnvFilter;

/// Installs the log for the whole process.
pub(crate) fn install(filter: &str, format: LogFormat) -> Result<(), ConfigError> {
    let filter = EnvFilter::try_new(filter).map_err(|error| ConfigError(format!("SIGNPOST_LOG: {error}")))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let installed = match format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        // One flat object a line: the event's fields beside the span's (the request).
        LogFormat::Json => builder.json().flatten_event(true).with_span_list(false).try_init(),
    };
    installed.map_err(|error| ConfigError(format!("the log cannot be installed: {error}")))
}
