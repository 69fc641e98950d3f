//! What doorward tells about itself: its own log lines, OTLP over gRPC where configured, and the metrics page. The
//! instruments are in `metrics`, the span of a Check in `trace`. Decision records are not telemetry: `record` keeps
//! them, and hands telemetry no more than a copy.

mod export;
pub mod metrics;
pub mod trace;

use std::{io::IsTerminal, sync::Arc, time::Duration};

use opentelemetry::{KeyValue, logs::LoggerProvider as _, metrics::MeterProvider as _, trace::TracerProvider as _};
use opentelemetry_otlp::{ExporterBuildError, LogExporter, MetricExporter, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    error::{OTelSdkError, OTelSdkResult},
    logs::{BatchConfigBuilder as LogBatch, BatchLogProcessor, SdkLogger, SdkLoggerProvider},
    metrics::{MeterProviderBuilder, PeriodicReader, SdkMeterProvider},
    trace::{BatchConfigBuilder as SpanBatch, BatchSpanProcessor, SdkTracerProvider},
};
use prometheus::{Registry, TextEncoder};
use tokio::sync::oneshot;
use tracing::warn;
use tracing_subscriber::{EnvFilter, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use self::{export::Watched, metrics::Metrics, trace::Tracer};
use crate::config;

/// Spans and log events that may wait for the collector. The SDK's 2,048 would overflow between two exports at a few
/// hundred calls a second; beyond this the newest are dropped, and nobody waits.
const QUEUE: usize = 32 * 1024;

/// Longest single export. A collector that hangs costs its own batch and nothing else.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// Libraries whose lines at `info` and below would tell of the log's own transport, or of each connection.
const QUIET: &str = "h2=warn,hyper=warn,hyper_util=warn,tonic=warn,tower=warn,opentelemetry=warn";

/// Why telemetry could not be started. A collector that cannot be reached is no such reason.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("OTLP export to `{endpoint}` cannot be set up")]
    Exporter { endpoint: String, source: ExporterBuildError },
    #[error("the metrics page cannot be set up")]
    Prometheus(#[source] OTelSdkError),
}

/// Everything that must be flushed at the end, and the handles that others take from it.
#[derive(Debug)]
pub struct Telemetry {
    metrics: Arc<Metrics>,
    tracer: Tracer,
    logger: Option<SdkLogger>,
    registry: Registry,
    meters: SdkMeterProvider,
    spans: Option<SdkTracerProvider>,
    logs: Option<SdkLoggerProvider>,
}

impl Telemetry {
    /// Starts the log lines on standard error (the first call of a process decides their form), the instruments, and
    /// the OTLP exporters that are configured. `instance` becomes `service.instance.id`; `service.name` is `doorward`
    /// unless `OTEL_SERVICE_NAME` says otherwise. To be called inside a tokio runtime, on which the exporters keep
    /// their connections; the collector need not be there.
    pub fn start(config: &config::Telemetry, instance: &str) -> Result<Self, TelemetryError> {
        subscribe(config.log);
        let resource = resource(instance);
        let registry = Registry::new();
        let page = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .scope_info_enabled(false)
            .build()
            .map_err(TelemetryError::Prometheus)?;
        let mut meters = SdkMeterProvider::builder().with_resource(resource.clone()).with_reader(page);
        let (mut spans, mut logs, mut tracer) = (None, None, Tracer::off());
        if let Some(otlp) = &config.otlp {
            let endpoint = otlp.endpoint.as_str();
            let failed = |source| TelemetryError::Exporter { endpoint: endpoint.to_owned(), source };
            if otlp.metrics {
                meters = push_metrics(meters, otlp).map_err(failed)?;
            }
            if otlp.traces {
                let provider = push_spans(otlp, resource.clone()).map_err(failed)?;
                tracer = Tracer::new(provider.tracer("doorward"), otlp.sample);
                spans = Some(provider);
            }
            if otlp.logs {
                logs = Some(push_logs(endpoint, resource).map_err(failed)?);
            }
        }
        let meters = meters.build();
        let metrics = Arc::new(Metrics::new(&meters.meter("doorward")));
        let logger = logs.as_ref().map(|provider: &SdkLoggerProvider| provider.logger("doorward"));
        Ok(Self { metrics, tracer, logger, registry, meters, spans, logs })
    }

    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }

    pub fn tracer(&self) -> Tracer {
        self.tracer.clone()
    }

    /// Where copies of decision records go; absent unless OTLP logs are on.
    pub fn logger(&self) -> Option<SdkLogger> {
        self.logger.clone()
    }

    /// The page that `/metrics` shows.
    pub fn page(&self) -> MetricsPage {
        MetricsPage(self.registry.clone())
    }

    /// Sends what still waits, for at most `timeout`; what the collector has not taken by then is lost. The flush
    /// blocks, so it has a thread of its own, which a hanging collector keeps until the process ends.
    pub async fn shutdown(self, timeout: Duration) {
        let (done, finished) = oneshot::channel();
        let flush = move || {
            let Self { spans, logs, meters, .. } = self;
            std::thread::scope(|scope| {
                // Side by side, because each may use up the time.
                scope.spawn(|| unflushed("traces", spans.map_or(Ok(()), |provider| provider.shutdown_with_timeout(timeout))));
                scope.spawn(|| unflushed("logs", logs.map_or(Ok(()), |provider| provider.shutdown_with_timeout(timeout))));
                unflushed("metrics", meters.shutdown_with_timeout(timeout));
            });
            // Nobody listens any more when the time was up.
            let _ = done.send(());
        };
        if let Err(error) = std::thread::Builder::new().name("telemetry-flush".to_owned()).spawn(flush) {
            warn!(%error, "telemetry was not flushed");
        } else if tokio::time::timeout(timeout, finished).await.is_err() {
            warn!("telemetry was not flushed in time");
        }
    }
}

fn unflushed(signal: &str, result: OTelSdkResult) {
    if let Err(error) = result {
        warn!(signal, %error, "telemetry was not flushed");
    }
}

/// Every instrument in the Prometheus text format (version 0.0.4).
#[derive(Debug, Clone)]
pub struct MetricsPage(Registry);

impl MetricsPage {
    pub fn text(&self) -> String {
        TextEncoder::new().encode_to_string(&self.0.gather()).unwrap_or_else(|error| {
            warn!(%error, "the metrics page cannot be written");
            String::new()
        })
    }
}

fn subscribe(format: config::LogFormat) {
    // What the user names wins over the list of quiet libraries, because it comes later.
    let wanted = std::env::var(EnvFilter::DEFAULT_ENV).ok().filter(|text| !text.is_empty());
    let filter = EnvFilter::try_new(format!("{QUIET},{}", wanted.as_deref().unwrap_or("info")));
    let refused = filter.as_ref().err().map(ToString::to_string);
    let filter = filter.unwrap_or_else(|_| EnvFilter::new(format!("{QUIET},info")));
    let registry = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let first = match format {
        config::LogFormat::Text => registry.with(lines).try_init(),
        config::LogFormat::Json => registry.with(lines.json()).try_init(),
    };
    // A second start in one process (several apps under test) writes through the first subscriber.
    if let (Ok(()), Some(error)) = (first, refused) {
        warn!(%error, "RUST_LOG is no filter, `info` is used");
    }
}

fn resource(instance: &str) -> Resource {
    let detected = Resource::builder().build();
    let named = detected.get(&"service.name".into()).is_some_and(|name| !name.as_str().starts_with("unknown_service"));
    let builder = Resource::builder().with_attributes([
        KeyValue::new("service.instance.id", instance.to_owned()),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
    ]);
    if named { builder.build() } else { builder.with_service_name("doorward").build() }
}

fn push_metrics(builder: MeterProviderBuilder, otlp: &config::Otlp) -> Result<MeterProviderBuilder, ExporterBuildError> {
    let endpoint = otlp.endpoint.as_str();
    let exporter = MetricExporter::builder().with_tonic().with_endpoint(endpoint).with_timeout(EXPORT_TIMEOUT).build()?;
    let watched = Watched::new(exporter, "metrics");
    Ok(builder.with_reader(PeriodicReader::builder(watched).with_interval(otlp.interval.duration()).build()))
}

fn push_spans(otlp: &config::Otlp, resource: Resource) -> Result<SdkTracerProvider, ExporterBuildError> {
    let endpoint = otlp.endpoint.as_str();
    let exporter = SpanExporter::builder().with_tonic().with_endpoint(endpoint).with_timeout(EXPORT_TIMEOUT).build()?;
    let batch = SpanBatch::default()
        .with_max_queue_size(QUEUE)
        .with_max_export_batch_size(2048)
        .with_scheduled_delay(Duration::from_secs(1))
        .build();
    let processor = BatchSpanProcessor::builder(Watched::new(exporter, "traces")).with_batch_config(batch).build();
    Ok(SdkTracerProvider::builder()
        .with_resource(resource)
        .with_sampler(trace::sampler(otlp.sample))
        .with_span_processor(processor)
        .build())
}

fn push_logs(endpoint: &str, resource: Resource) -> Result<SdkLoggerProvider, ExporterBuildError> {
    let exporter = LogExporter::builder().with_tonic().with_endpoint(endpoint).with_timeout(EXPORT_TIMEOUT).build()?;
    let batch = LogBatch::default()
        .with_max_queue_size(QUEUE)
        .with_max_export_batch_size(2048)
        .with_scheduled_delay(Duration::from_secs(1))
        .build();
    let processor = BatchLogProcessor::builder(Watched::new(exporter, "logs")).with_batch_config(batch).build();
    Ok(SdkLoggerProvider::builder().with_resource(resource).with_log_processor(processor).build())
}

#[cfg(test)]
mod tests;
