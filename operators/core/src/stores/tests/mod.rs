mod rows;
mod timed;
