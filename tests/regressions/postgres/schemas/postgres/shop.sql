CREATE TABLE shop.movements (
    id bigint GENERATED ALWAYS AS IDENTITY,
    sku text NOT NULL,
    delta integer NOT NULL,
    note varchar(10),
    at timestamptz NOT NULL,
    tags text[]
);

CREATE TABLE shop.levels (
    sku text PRIMARY KEY,
    balance bigint NOT NULL,
    movements bigint NOT NULL,
    note text
);
