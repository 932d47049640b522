resource "aws_ebs_volume" "data" {
  availability_zone = local.zones[0]
  size              = var.data_gib
  type              = "gp3"
  tags              = { Name = "data", Stage = var.stage }
}

resource "aws_volume_attachment" "data" {
  device_name = "/dev/sdg"
  volume_id   = aws_ebs_volume.data.id
  instance_id = aws_instance.worker.id
  # One that is about to stop takes none.
  depends_on = [aws_ec2_instance_state.worker]
}

resource "aws_ebs_volume" "fast" {
  availability_zone    = local.zones[0]
  size                 = 10
  type                 = "io2"
  iops                 = 500
  multi_attach_enabled = true
  encrypted            = true
}

resource "aws_ebs_snapshot" "data" {
  volume_id   = aws_ebs_volume.data.id
  description = "Once"
}

resource "aws_ebs_snapshot_copy" "data" {
  source_snapshot_id = aws_ebs_snapshot.data.id
  source_region      = data.aws_region.here.name
}

resource "aws_ebs_volume" "again" {
  availability_zone = local.zones[1]
  snapshot_id       = aws_ebs_snapshot.data.id
}

resource "aws_ami_from_instance" "store" {
  name               = "store"
  source_instance_id = aws_instance.store.id
}

resource "aws_ami_copy" "store" {
  name              = "store-copy"
  source_ami_id     = aws_ami_from_instance.store.id
  source_ami_region = data.aws_region.here.name
  encrypted         = true
}

resource "aws_ami" "data" {
  name                = "of-a-snapshot"
  virtualization_type = "hvm"
  root_device_name    = "/dev/xvda"
  ena_support         = true
  imds_support        = "v2.0"
  ebs_block_device {
    device_name = "/dev/xvda"
    snapshot_id = aws_ebs_snapshot.data.id
    volume_size = 20
  }
}

resource "aws_ami_launch_permission" "data" {
  image_id   = aws_ami.data.id
  account_id = "123456789012"
}

resource "aws_snapshot_create_volume_permission" "data" {
  snapshot_id = aws_ebs_snapshot_copy.data.id
  account_id  = "123456789012"
}

resource "aws_ebs_encryption_by_default" "own" {
  enabled = false
}

resource "aws_ec2_default_credit_specification" "t3" {
  instance_family = "t3"
  cpu_credits     = "standard"
}
