"""What every room uses: errors, typed values out of plain ones, files and plugins."""
