CREATE TABLE shop.orders (
    order_id text NOT NULL,
    total numeric(12, 2),
    placed_at timestamptz,
    channel text NOT NULL
);
