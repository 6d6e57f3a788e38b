"""The chat's door: eight tools and eight resources over stdio and HTTP. Tools by subject; server puts them together."""
