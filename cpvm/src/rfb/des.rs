//! VNC authentication (RFC 6143 7.2.2): the password as a DES key, applied to a challenge.

use des::{
    Des,
    cipher::{Array, BlockCipherEncrypt, KeyInit},
};
use zeroize::Zeroizing;

/// Bytes of a challenge and of its response.
pub const LENGTH: usize = 16;

/// The response to a challenge. Of the password only the first eight characters count; characters
/// beyond ASCII become `?`. Each byte of the key has its bits in reverse order.
pub fn response(password: &str, challenge: [u8; LENGTH]) -> [u8; LENGTH] {
    let mut key = Zeroizing::new([0_u8; 8]);
    for (slot, character) in key.iter_mut().zip(utf16(password)) {
        *slot = u8::try_from(character).ok().filter(u8::is_ascii).unwrap_or(b'?').reverse_bits();
    }
    let cipher = Des::new(&Array::from(*key));
    let mut response = challenge;
    for half in response.chunks_exact_mut(8) {
        let mut block = [0; 8];
        block.copy_from_slice(half);
        let mut block = Array::from(block);
        cipher.encrypt_block(&mut block);
        half.copy_from_slice(&block);
    }
    response
}

/// Characters as the management end counts them: one beyond the basic plane is two.
fn utf16(password: &str) -> impl Iterator<Item = u16> + '_ {
    password.encode_utf16()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recorded_responses() {
        const ZERO: &str = "00000000000000000000000000000000";
        const COUNT: &str = "000102030405060708090a0b0c0d0e0f";
        const ONES: &str = "ffffffffffffffffffffffffffffffff";
        for (password, challenge, wanted) in [
            ("", ZERO, "8ca64de9c1b123a78ca64de9c1b123a7"),
            ("", COUNT, "491e890de9ace932838a49792f2213f3"),
            ("", ONES, "355550b2150e2451355550b2150e2451"),
            ("a", ZERO, "79c330799acb6e9579c330799acb6e95"),
            ("a", COUNT, "449407fb6f71bd517aca76866568a4e2"),
            ("a", ONES, "1a6448e0ea6e98cf1a6448e0ea6e98cf"),
            ("Secr3tPw", ZERO, "ed36061ff934e278ed36061ff934e278"),
            ("Secr3tPw", COUNT, "607d56941a7709640ad780be30c5a6af"),
            ("Secr3tPw", ONES, "91f47c866047399191f47c8660473991"),
            ("Secr3tPwTRUNCATED", COUNT, "607d56941a7709640ad780be30c5a6af"),
            ("12345678", ZERO, "d29f6e7f0456f8ded29f6e7f0456f8de"),
            ("12345678", COUNT, "83dd2b4dbd04367f28578fdd5b142740"),
            ("12345678", ONES, "cfde517752975f09cfde517752975f09"),
            ("pässwört", ZERO, "c6941e510ad86921c6941e510ad86921"),
            ("pässwört", COUNT, "7c70bfdfef225f281fe4a6aea3af5311"),
            ("pässwört", ONES, "4c618ac1ab0357234c618ac1ab035723"),
        ] {
            let bytes = hex::decode(challenge).unwrap().try_into().unwrap();
            assert_eq!(hex::encode(response(password, bytes)), wanted, "{password:?} {challenge}");
        }
    }
}
