//! A Unix socket that can pass one descriptor together with the bytes (`SCM_RIGHTS`, unix(7)).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::UnixStream;

/// The descriptor that has arrived.
#[derive(Debug, Clone, Default)]
pub struct Passed(Arc<Mutex<Option<OwnedFd>>>);

impl Passed {
    /// Removes the descriptor; none if none has arrived.
    pub fn take(&self) -> Option<OwnedFd> {
        self.0.lock().take()
    }

    /// Keeps the first descriptor that arrives; further ones are closed.
    fn keep(&self, fd: OwnedFd) {
        self.0.lock().get_or_insert(fd);
    }
}

/// The socket.
#[derive(Debug)]
pub struct PassingStream {
    stream: UnixStream,
    to_send: Option<OwnedFd>,
    passed: Passed,
}

impl PassingStream {
    /// Sends `to_send` with the first byte that is written.
    pub fn new(stream: UnixStream, to_send: Option<OwnedFd>) -> Self {
        Self { stream, to_send, passed: Passed::default() }
    }

    /// Receives the descriptor when it arrives.
    pub fn passed(&self) -> Passed {
        self.passed.clone()
    }
}

impl AsyncRead for PassingStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            ready!(this.stream.poll_read_ready(context))?;
            let into = buffer.initialize_unfilled();
            let received =
                this.stream.try_io(Interest::READABLE, || receive(&this.stream, into, &this.passed));
            match received {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                received => {
                    buffer.advance(received?);
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

fn receive(stream: &UnixStream, into: &mut [u8], passed: &Passed) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received =
        recvmsg(stream.as_fd(), &mut [IoSliceMut::new(into)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            fds.for_each(|fd| passed.keep(fd));
        }
    }
    Ok(received.bytes)
}

impl AsyncWrite for PassingStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let Some(fd) = &this.to_send else { return Pin::new(&mut this.stream).poll_write(context, bytes) };
        loop {
            ready!(this.stream.poll_write_ready(context))?;
            let sent = this.stream.try_io(Interest::WRITABLE, || {
                let fds = [fd.as_fd()];
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                control.push(SendAncillaryMessage::ScmRights(&fds));
                Ok(sendmsg(this.stream.as_fd(), &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
            });
            match sent {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => {
                    this.to_send = None;
                    return Poll::Ready(sent);
                }
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn a_descriptor_arrives_with_the_first_bytes() {
        let (here, there) = UnixStream::pair().unwrap();
        let (mut reader, mut writer) = io::pipe().unwrap();
        io::Write::write_all(&mut writer, b"through the pipe").unwrap();
        drop(writer);
        let mut here = PassingStream::new(here, Some(reader.as_fd().try_clone_to_owned().unwrap()));
        let mut there = PassingStream::new(there, None);
        let passed = there.passed();
        here.write_all(b"POST").await.unwrap();
        here.write_all(b" more").await.unwrap();
        let mut text = [0; 9];
        there.read_exact(&mut text).await.unwrap();
        assert_eq!(&text, b"POST more");
        let mut arrived = io::PipeReader::from(passed.take().unwrap());
        let mut through = String::new();
        arrived.read_to_string(&mut through).unwrap();
        assert_eq!(through, "through the pipe");
        assert!(passed.take().is_none());
        drop(here);
        assert_eq!(there.read(&mut text).await.unwrap(), 0);
        assert_eq!(reader.read(&mut text).unwrap(), 0);
    }
}
