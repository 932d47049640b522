resource "aws_key_pair" "admin" {
  key_name   = "admin"
  public_key = var.public_key
}

resource "aws_placement_group" "racks" {
  name            = "racks"
  strategy        = "partition"
  partition_count = 3
}

resource "aws_instance" "web" {
  ami                    = data.aws_ami.debian.id
  instance_type          = var.instance_type
  subnet_id              = aws_subnet.public[0].id
  vpc_security_group_ids = [aws_security_group.web.id]
  key_name               = aws_key_pair.admin.key_name
  monitoring             = true
  user_data              = <<-EOT
    #!/bin/sh
    echo hello > /var/www/index.html
  EOT

  root_block_device {
    volume_type = "gp3"
    volume_size = 12
    iops        = 3000
    throughput  = 125
    encrypted   = true
    tags        = { Name = "web-root" }
  }
  ebs_block_device {
    device_name           = "/dev/sdf"
    volume_size           = 4
    volume_type           = "gp2"
    delete_on_termination = true
  }
  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 2
    instance_metadata_tags      = "enabled"
  }
  credit_specification {
    cpu_credits = "standard"
  }
  tags = { Name = "web", Stage = var.stage }
}

resource "aws_eip" "web" {
  domain = "vpc"
  tags   = { Name = "web" }
}

resource "aws_eip_association" "web" {
  instance_id   = aws_instance.web.id
  allocation_id = aws_eip.web.id
}

resource "aws_network_interface" "first" {
  subnet_id       = aws_subnet.private[local.zones[0]].id
  private_ips     = ["10.21.0.10", "10.21.0.11"]
  security_groups = [aws_security_group.store.id]
  tags            = { Name = "first" }
}

resource "aws_network_interface" "second" {
  subnet_id         = aws_subnet.private[local.zones[0]].id
  source_dest_check = false
  description       = "Between networks"
}

resource "aws_instance" "store" {
  ami                     = data.aws_ami.debian.id
  instance_type           = "m5.large"
  placement_group         = aws_placement_group.racks.name
  disable_api_termination = false
  ebs_optimized           = true

  network_interface {
    network_interface_id = aws_network_interface.first.id
    device_index         = 0
  }
  network_interface {
    network_interface_id = aws_network_interface.second.id
    device_index         = 1
  }
  tags        = { Name = "store" }
  volume_tags = { Of = "store" }
}

resource "aws_launch_template" "worker" {
  name                   = "worker"
  description            = "A worker in stage ${var.stage}"
  image_id               = data.aws_ami.debian.id
  instance_type          = var.instance_type
  key_name               = aws_key_pair.admin.key_name
  update_default_version = true

  block_device_mappings {
    device_name = data.aws_ami.debian.root_device_name
    ebs {
      volume_size           = 10
      volume_type           = "gp3"
      delete_on_termination = true
    }
  }
  network_interfaces {
    device_index                = 0
    associate_public_ip_address = true
    subnet_id                   = aws_subnet.public[0].id
    security_groups             = [aws_security_group.web.id]
  }
  metadata_options {
    http_tokens = "required"
  }
  monitoring {
    enabled = true
  }
  credit_specification {
    cpu_credits = "unlimited"
  }
  tag_specifications {
    resource_type = "instance"
    tags          = { Name = "worker" }
  }
}

resource "aws_instance" "worker" {
  launch_template {
    id      = aws_launch_template.worker.id
    version = aws_launch_template.worker.latest_version
  }
}

resource "aws_ec2_instance_state" "worker" {
  instance_id = aws_instance.worker.id
  state       = "stopped"
}

resource "aws_ec2_tag" "worker" {
  resource_id = aws_instance.worker.primary_network_interface_id
  key         = "Of"
  value       = "worker"
}
