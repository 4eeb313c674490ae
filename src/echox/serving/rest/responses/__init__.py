"""The Responses API: requests, output item by item, and stored responses."""
