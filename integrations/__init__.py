"""One package or module for each external framework; nothing else imports them."""
