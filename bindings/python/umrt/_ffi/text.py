"""Tokens and text. Mirrors src/capi/text.rs."""

from __future__ import annotations

from ctypes import POINTER, c_char_p, c_int32, c_size_t, c_uint8, c_uint32, c_void_p

from ._declare import BUFFER, HANDLE, NEEDED, NEW_HANDLE, STATUS, Struct, declare

TOKENIZE_ADD_SPECIAL = 1
TOKENIZE_PARSE_SPECIAL = 2

DETOKENIZE_SKIP_SPECIAL = 1

TOKEN_SPECIAL = 1
TOKEN_END = 2
TOKEN_BYTE = 4

SPECIAL_BOS = 0
SPECIAL_EOS = 1
SPECIAL_UNK = 2
SPECIAL_SEP = 3
SPECIAL_PAD = 4
SPECIAL_CLS = 5
SPECIAL_MASK = 6


class TokenInfo(Struct):
    _fields_ = [
        ("struct_size", c_uint32),
        ("flags", c_uint32),
        ("bytes", POINTER(c_uint8)),
        ("n_bytes", c_uint32),
        ("reserved", c_uint32),
    ]


declare(
    {
        "umrt_tokenize": (
            STATUS,
            [HANDLE, c_char_p, c_size_t, c_uint32, POINTER(c_int32), c_size_t, NEEDED],
        ),
        "umrt_detokenize": (
            STATUS,
            [HANDLE, POINTER(c_int32), c_size_t, c_uint32, BUFFER, c_size_t, NEEDED],
        ),
        "umrt_token_info_get": (STATUS, [HANDLE, c_int32, POINTER(TokenInfo)]),
        "umrt_special_token": (STATUS, [HANDLE, c_int32, POINTER(c_int32)]),
        "umrt_chat_render": (
            STATUS,
            [HANDLE, c_char_p, c_size_t, BUFFER, c_size_t, NEEDED],
        ),
        "umrt_detok_new": (STATUS, [HANDLE, NEW_HANDLE]),
        "umrt_detok_push": (STATUS, [HANDLE, c_int32, POINTER(c_void_p), NEEDED]),
        "umrt_detok_finish": (STATUS, [HANDLE, POINTER(c_void_p), NEEDED]),
        "umrt_detok_free": (None, [HANDLE]),
    }
)
