//! One picture of a screen, as a PNG: for the management end, by a token that is good for a picture alone. The token
//! passes all the checks that a console's does.

use std::{
    io::{self, Write as _},
    net::IpAddr,
    sync::LazyLock,
    time::{Duration, Instant},
};

use flate2::{Compression, Crc, write::ZlibEncoder};
use http_body_util::Full;
use hyper::{Response, StatusCode, body::Bytes};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::Semaphore,
    time::timeout,
};

use super::{App, console, page};
use crate::{
    end::End,
    rfb::{ServerInit, hypervisor::initialise},
    screen::Screen,
    ticket::Query,
};

/// Where pictures are asked for.
pub(super) const PATH: &str = "/picture";
/// For the whole picture.
const LIMIT: Duration = Duration::from_secs(15);
/// Pixels of the largest screen.
const PIXELS: usize = 8 * 1024 * 1024;
/// The encoding of a rectangle that is word of another size of the screen (-223).
const RESIZED: [u8; 4] = [0xff, 0xff, 0xff, 0x21];
/// Longest text that a server may send in between, in bytes.
const TEXT_LIMIT: u32 = 1024 * 1024;
/// Pictures at a time: each takes memory.
static PLACES: LazyLock<Semaphore> = LazyLock::new(|| Semaphore::new(2));

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
pub enum NoPicture {
    /// The connection broke.
    #[error("the screen's connection broke: {0}")]
    Io(#[from] io::Error),
    /// It would take too much memory.
    #[error("the screen is larger than any that is taken pictures of")]
    Large,
    /// The server does not keep to the protocol.
    #[error("the screen's server sent something that was not asked for")]
    Protocol,
}

/// Red, green and blue of each pixel, row by row.
#[derive(Debug, PartialEq, Eq)]
pub struct Picture {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
}

/// Answers a request: `w` and `h` of its query bound the picture's size.
pub(super) async fn answer(app: &App, query: &str, client: IpAddr) -> Response<Full<Bytes>> {
    let number = |name: &str| {
        let values = query.split('&').filter_map(|part| part.split_once('='));
        values.filter(|(given, _)| *given == name).find_map(|(_, value)| value.parse().ok())
    };
    let bounds = (number("w").unwrap_or(usize::MAX), number("h").unwrap_or(usize::MAX));
    if app.limits.must_wait(client, Instant::now()) {
        app.counters.turned_away("refused_too_often");
        return page::plain(StatusCode::TOO_MANY_REQUESTS, "Too many refused consoles, wait a minute\n");
    }
    let order = match console::check(app, &Query::parse(query), client) {
        Ok(order) if order.picture && !matches!(order.screen, Screen::Websocket { .. }) => order,
        Ok(_) => return page::plain(StatusCode::FORBIDDEN, "This token is not for a picture\n"),
        Err(turned) => {
            turned.count(app, client);
            return text(StatusCode::FORBIDDEN, turned.text);
        }
    };
    let Ok(_place) = PLACES.try_acquire() else {
        return page::plain(
            StatusCode::SERVICE_UNAVAILABLE,
            "Too many pictures at a time, try again later\n",
        );
    };
    let (order, session, socket) = match console::admit(app, order).await {
        Ok(admitted) => admitted,
        Err(turned) => {
            turned.count(app, client);
            return text(StatusCode::FORBIDDEN, turned.text);
        }
    };
    let taken = async {
        let mut ready = console::reach(app, &order, socket).await.map_err(|error| error.to_string())?;
        let init = initialise(&mut ready.stream, 1).await.map_err(|error| error.to_string())?;
        let picture = take(&mut ready.stream, &init).await.map_err(|error| error.to_string())?;
        drop(ready);
        // Consoles do not wait for it.
        let made = tokio::task::spawn_blocking(move || png(&picture.within(bounds))).await;
        made.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    };
    let taken =
        timeout(LIMIT, taken).await.unwrap_or_else(|_| Err("the screen did not come in time".to_owned()));
    match taken {
        Ok(png) => {
            session.end(End::BrowserClosed);
            page::fresh("image/png", png.into())
        }
        Err(error) => {
            session.end(End::HypervisorGone);
            text(StatusCode::BAD_GATEWAY, error)
        }
    }
}

fn text(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = page::fresh("text/plain; charset=utf-8", (text + "\n").into());
    *response.status_mut() = status;
    response
}

/// Takes the whole screen, in the size that it has by then.
///
/// # Errors
/// Why there is no picture.
pub async fn take<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    init: &ServerInit,
) -> Result<Picture, NoPicture> {
    // 32 bits, blue first; pixels as they are, and word of another size.
    let format = [0, 0, 0, 0, 32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0];
    let encodings = [&[2, 0, 0, 2, 0, 0, 0, 0][..], &RESIZED].concat();
    stream.write_all(&[&format[..], &encodings].concat()).await?;
    let mut picture = asked(stream, init.size()).await?;
    let (mut width, mut height) = init.size();
    let mut left = width * height;
    let mut row = vec![0; width * 4];
    while left > 0 {
        match stream.read_u8().await? {
            0 => {
                stream.read_u8().await?;
                for _ in 0..stream.read_u16().await? {
                    let mut head = [0; 12];
                    stream.read_exact(&mut head).await?;
                    let number = |at: usize| usize::from(u16::from_be_bytes([head[at], head[at + 1]]));
                    let (x, y, w, h) = (number(0), number(2), number(4), number(6));
                    if head[8..] == RESIZED {
                        (width, height, left) = (w, h, w * h);
                        row = vec![0; width * 4];
                        picture = asked(stream, (width, height)).await?;
                        continue;
                    }
                    if head[8..] != [0; 4] || x + w > width || y + h > height {
                        return Err(NoPicture::Protocol);
                    }
                    for line in y..y + h {
                        stream.read_exact(&mut row[..w * 4]).await?;
                        let to = &mut picture.pixels[(line * width + x) * 3..];
                        for (to, from) in to.chunks_exact_mut(3).zip(row[..w * 4].chunks_exact(4)) {
                            to.copy_from_slice(&[from[2], from[1], from[0]]);
                        }
                    }
                    left = left.saturating_sub(w * h);
                }
            }
            1 => {
                stream.read_exact(&mut [0; 3]).await?;
                let count = stream.read_u16().await?;
                skip(stream, u64::from(count) * 6).await?;
            }
            2 => {}
            3 => {
                stream.read_exact(&mut [0; 3]).await?;
                let length = stream.read_u32().await?;
                if length > TEXT_LIMIT {
                    return Err(NoPicture::Protocol);
                }
                skip(stream, length.into()).await?;
            }
            _ => return Err(NoPicture::Protocol),
        }
    }
    Ok(picture)
}

/// Asks for a screen of this size, and makes room for it.
async fn asked<S: AsyncWrite + Unpin>(
    stream: &mut S,
    (width, height): (usize, usize),
) -> Result<Picture, NoPicture> {
    if width * height > PIXELS {
        return Err(NoPicture::Large);
    }
    let [w, h] = [width, height].map(|side| (side as u16).to_be_bytes());
    stream.write_all(&[3, 0, 0, 0, 0, 0, w[0], w[1], h[0], h[1]]).await?;
    stream.flush().await?;
    Ok(Picture { width, height, pixels: vec![0; width * height * 3] })
}

async fn skip<S: AsyncRead + Unpin>(stream: &mut S, count: u64) -> io::Result<()> {
    let skipped = tokio::io::copy(&mut stream.take(count), &mut tokio::io::sink()).await?;
    if skipped == count { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

impl Picture {
    /// Made smaller, each pixel the mean of those in its place, until it fits; never larger.
    pub fn within(self, (most_wide, most_high): (usize, usize)) -> Self {
        let (most_wide, most_high) =
            (most_wide.clamp(1, self.width.max(1)), most_high.clamp(1, self.height.max(1)));
        if (most_wide, most_high) == (self.width, self.height) || self.pixels.is_empty() {
            return self;
        }
        let (width, height) = if most_wide * self.height <= most_high * self.width {
            (most_wide, (self.height * most_wide / self.width).max(1))
        } else {
            ((self.width * most_high / self.height).max(1), most_high)
        };
        let mut pixels = Vec::with_capacity(width * height * 3);
        for y in 0..height {
            let rows = y * self.height / height..((y + 1) * self.height / height);
            for x in 0..width {
                let columns = x * self.width / width..((x + 1) * self.width / width);
                let mut sums = [0_usize; 3];
                for row in rows.clone() {
                    let line = &self.pixels
                        [(row * self.width + columns.start) * 3..(row * self.width + columns.end) * 3];
                    for pixel in line.chunks_exact(3) {
                        sums.iter_mut().zip(pixel).for_each(|(sum, part)| *sum += usize::from(*part));
                    }
                }
                let count = (rows.len() * columns.len()).max(1);
                pixels.extend(sums.map(|sum| (sum / count) as u8));
            }
        }
        Self { width, height, pixels }
    }
}

/// The picture as a PNG (RFC 2083): 8 bits a colour, lines unfiltered.
fn png(picture: &Picture) -> io::Result<Vec<u8>> {
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut chunk = |kind: &[u8; 4], data: &[u8]| {
        let mut sum = Crc::new();
        sum.update(kind);
        sum.update(data);
        file.extend_from_slice(&(data.len() as u32).to_be_bytes());
        file.extend_from_slice(kind);
        file.extend_from_slice(data);
        file.extend_from_slice(&sum.sum().to_be_bytes());
    };
    let [width, height] = [picture.width, picture.height].map(|side| (side as u32).to_be_bytes());
    chunk(b"IHDR", &[&width[..], &height, &[8, 2, 0, 0, 0]].concat());
    let mut packed = ZlibEncoder::new(Vec::new(), Compression::fast());
    for line in picture.pixels.chunks_exact((picture.width * 3).max(1)) {
        packed.write_all(&[0])?;
        packed.write_all(line)?;
    }
    chunk(b"IDAT", &packed.finish()?);
    chunk(b"IEND", &[]);
    Ok(file)
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    fn init(width: u16, height: u16) -> ServerInit {
        let mut head = [0; ServerInit::HEAD];
        head[..2].copy_from_slice(&width.to_be_bytes());
        head[2..4].copy_from_slice(&height.to_be_bytes());
        ServerInit::new(head)
    }

    async fn taken(width: u16, height: u16, server: &[u8]) -> Result<Picture, NoPicture> {
        let (mut near, mut far) = duplex(64 * 1024);
        far.write_all(server).await.unwrap();
        far.shutdown().await.unwrap();
        take(&mut near, &init(width, height)).await
    }

    const BELL_AND_TEXT: &[u8] = &[2, 3, 0, 0, 0, 0, 0, 0, 2, b'h', b'i', 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];

    #[tokio::test]
    async fn rectangles_make_a_picture() {
        let server = [
            BELL_AND_TEXT,
            &[0, 0, 0, 1, 0, 0, 0, 0, 0, 2, 0, 1, 0, 0, 0, 0, 3, 2, 1, 0, 6, 5, 4, 0],
            &[0, 0, 0, 2, 0, 1, 0, 1, 0, 1, 0, 1, 0, 0, 0, 0, 12, 11, 10, 0],
            &[0, 0, 0, 1, 0, 1, 0, 1, 0, 0, 0, 0, 9, 8, 7, 0],
        ];
        let picture = taken(2, 2, &server.concat()).await.unwrap();
        assert_eq!(picture, Picture { width: 2, height: 2, pixels: (1..=12).collect() });
        let mean = Picture { width: 1, height: 1, pixels: vec![5, 6, 7] };
        assert_eq!(picture.within((1, 400)), mean);
    }

    #[tokio::test]
    async fn a_screen_that_changes_its_size_meanwhile_is_taken_in_the_new_one() {
        let server = [
            &[0, 0, 0, 2, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 1, 1, 1, 0][..],
            &[0, 0, 0, 0, 0, 1, 0, 1, 0xff, 0xff, 0xff, 0x21],
            &[0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 3, 2, 1, 0],
        ];
        let picture = taken(2, 2, &server.concat()).await.unwrap();
        assert_eq!(picture, Picture { width: 1, height: 1, pixels: vec![1, 2, 3] });
        let huge = [0, 0, 0, 1, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x21];
        assert!(matches!(taken(2, 2, &huge).await, Err(NoPicture::Large)));
    }

    #[tokio::test]
    async fn servers_that_send_something_else_are_left() {
        for (server, size) in [
            (&[0, 0, 0, 1, 0, 1, 0, 0, 0, 2, 0, 1, 0, 0, 0, 0][..], (2, 2)),
            (&[0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 7], (2, 2)),
            (&[3, 0, 0, 0, 0xff, 0xff, 0xff, 0xff], (2, 2)),
            (&[9], (2, 2)),
            (&[], (2, 2)),
            (&[], (65535, 65535)),
        ] {
            assert!(taken(size.0, size.1, server).await.is_err(), "{server:?}");
        }
    }

    #[test]
    fn it_becomes_smaller_and_never_larger() {
        let picture = || Picture { width: 40, height: 20, pixels: vec![200; 40 * 20 * 3] };
        for (bounds, wanted) in [
            ((20, 20), (20, 10)),
            ((1000, 5), (10, 5)),
            ((0, 0), (1, 1)),
            ((1000, 1000), (40, 20)),
            ((7, 3), (6, 3)),
        ] {
            let small = picture().within(bounds);
            assert_eq!((small.width, small.height), wanted, "{bounds:?}");
            assert!(small.pixels.iter().all(|part| *part == 200), "{bounds:?}");
            assert_eq!(small.pixels.len(), wanted.0 * wanted.1 * 3);
        }
    }

    #[test]
    fn a_png_says_its_size_and_holds_the_lines() {
        let picture = Picture { width: 2, height: 1, pixels: vec![1, 2, 3, 4, 5, 6] };
        let file = png(&picture).unwrap();
        assert_eq!(file[..8], *b"\x89PNG\r\n\x1a\n");
        assert_eq!(file[16..24], [0, 0, 0, 2, 0, 0, 0, 1]);
        let at = file.windows(4).position(|four| four == b"IDAT").unwrap() + 4;
        let mut lines = Vec::new();
        io::Read::read_to_end(&mut flate2::read::ZlibDecoder::new(&file[at..]), &mut lines).unwrap();
        assert_eq!(lines, [0, 1, 2, 3, 4, 5, 6]);
        assert!(file.ends_with(b"IEND\xae\x42\x60\x82"));
    }
}
