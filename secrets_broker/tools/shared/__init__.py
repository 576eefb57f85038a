"""What commands share: options, exit statuses, output, progress, and how they ask a service."""
