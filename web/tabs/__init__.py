"""The tabs of the app, one file each; a tab appears where its recipe exists."""
