-- What follows the first MiB of a message, in pieces of a MiB, so that nobody needs memory for a second copy of a long one.
CREATE TABLE body_pieces (
    message_id TEXT NOT NULL REFERENCES messages (id),
    -- 1, 2, ...; the piece before the first of these is `bodies.raw`.
    place      INTEGER NOT NULL,
    octets     BLOB NOT NULL,
    PRIMARY KEY (message_id, place)
) STRICT;
