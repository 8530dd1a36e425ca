//! How many bytes may be on their way.

use std::sync::Arc;

use tokio::sync::Semaphore;

/// The bytes of one stream that may still be sent.
#[derive(Debug, Clone)]
pub(crate) struct Window {
    bytes: Arc<Semaphore>,
    size: usize,
}

impl Window {
    /// At most `size` bytes on their way.
    pub(crate) fn of(size: u32) -> Self {
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        Self { bytes: Arc::new(Semaphore::new(size)), size }
    }

    /// The other side has taken so many bytes.
    pub(crate) fn grant(&self, bytes: u32) {
        // One that grants more than it was sent must not overflow the counter.
        let missing = self.size.saturating_sub(self.bytes.available_permits());
        self.bytes.add_permits(usize::try_from(bytes).unwrap_or(0).min(missing));
    }

    /// Nobody takes bytes any more.
    pub(crate) fn close(&self) {
        self.bytes.close();
    }

    /// Waits until so many bytes may be sent, at most a window. Returns whether they may: not once
    /// the window was closed.
    pub(crate) async fn take(&self, bytes: usize) -> bool {
        let Ok(count) = u32::try_from(bytes) else { return false };
        match self.bytes.acquire_many(count).await {
            Ok(permits) => {
                permits.forget();
                true
            }
            Err(_closed) => false,
        }
    }
}
