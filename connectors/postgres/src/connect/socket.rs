//! A socket that can be laid aside: while it is, arriving bytes wake nobody.

use std::{
    io, net,
    os::unix,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};

/// A connected socket.
///
/// A registered socket wakes the runtime for every packet, also when nobody waits for it. A server
/// that sends every row by itself then costs a wake-up per row on both sides.
#[derive(Debug)]
pub(crate) enum Socket {
    /// TCP.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
    /// TCP, laid aside.
    TcpAside(net::TcpStream),
    /// A Unix socket, laid aside.
    UnixAside(unix::net::UnixStream),
    /// It broke while it changed hands.
    Gone,
}

impl Socket {
    /// Bytes gather in the system's buffer from now on. Reading and writing fail until
    /// [`Socket::take_up`].
    pub(crate) fn lay_aside(&mut self) -> io::Result<()> {
        *self = match std::mem::replace(self, Self::Gone) {
            Self::Tcp(stream) => Self::TcpAside(stream.into_std()?),
            Self::Unix(stream) => Self::UnixAside(stream.into_std()?),
            other => other,
        };
        Ok(())
    }

    /// Makes it usable again. Harmless when it is.
    pub(crate) fn take_up(&mut self) -> io::Result<()> {
        if matches!(self, Self::Tcp(_) | Self::Unix(_)) {
            return Ok(());
        }
        *self = match std::mem::replace(self, Self::Gone) {
            Self::TcpAside(stream) => Self::Tcp(TcpStream::from_std(stream)?),
            Self::UnixAside(stream) => Self::Unix(UnixStream::from_std(stream)?),
            other => other,
        };
        Ok(())
    }
}

fn aside() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the socket is laid aside")
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_read(cx, buf),
            Self::Unix(s) => Pin::new(s).poll_read(cx, buf),
            _ => Poll::Ready(Err(aside())),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_write(cx, buf),
            Self::Unix(s) => Pin::new(s).poll_write(cx, buf),
            _ => Poll::Ready(Err(aside())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_flush(cx),
            Self::Unix(s) => Pin::new(s).poll_flush(cx),
            _ => Poll::Ready(Err(aside())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_shutdown(cx),
            Self::Unix(s) => Pin::new(s).poll_shutdown(cx),
            _ => Poll::Ready(Err(aside())),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn what_came_meanwhile_is_read_afterwards() {
        let (mut far, near) = UnixStream::pair().unwrap();
        let mut near = Socket::Unix(near);
        let mut buffer = [0; 8];
        near.lay_aside().unwrap();
        far.write_all(b"one").await.unwrap();
        let refused = near.read(&mut buffer).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::NotConnected);
        near.take_up().unwrap();
        near.take_up().unwrap();
        assert_eq!(near.read(&mut buffer).await.unwrap(), 3);
        far.write_all(b"two").await.unwrap();
        assert_eq!(near.read(&mut buffer).await.unwrap(), 3);
        drop(far);
        near.lay_aside().unwrap();
        near.take_up().unwrap();
        assert_eq!(near.read(&mut buffer).await.unwrap(), 0);
    }
}
